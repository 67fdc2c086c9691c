//! The reference for warm requests: two nginx proxies, tuned as a careful operator would.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use bismuth_testkit::process::{Process, Program};

/// One nginx that forwards everything from one port to another on loopback, with connections kept.
pub(crate) fn start(dir: &Path, name: &str, listen: u16, upstream: u16) -> Result<Process> {
    let config = dir.join(format!("{name}.conf"));
    let dir_text = dir.display();
    let text = format!(
        "worker_processes 2; daemon off; pid {dir_text}/{name}.pid; error_log stderr warn;
         events {{ worker_connections 4096; }}
         http {{
           access_log off; keepalive_requests 100000000; keepalive_timeout 75s; tcp_nodelay on;
           client_body_temp_path {dir_text}/{name}-body; proxy_temp_path {dir_text}/{name}-proxy;
           fastcgi_temp_path {dir_text}/{name}-f; uwsgi_temp_path {dir_text}/{name}-u; scgi_temp_path {dir_text}/{name}-s;
           upstream next {{ server 127.0.0.1:{upstream}; keepalive 128; keepalive_requests 100000000; }}
           server {{
             listen 127.0.0.1:{listen} reuseport;
             location / {{ proxy_pass http://next; proxy_http_version 1.1; proxy_set_header Connection \"\"; }}
           }}
         }}\n"
    );
    fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
    Program::new(name, "nginx", dir)
        .arg("-c")
        .arg(config)
        .spawn()
}
