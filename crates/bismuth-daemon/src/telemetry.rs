//! Logs: one event per line on standard error, as text for people or JSON for machines.
//!
//! Panics take the same way, so that a JSON log stays JSON. Standard output carries only what a
//! person asked a command for.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::IsTerminal as _,
    panic::PanicHookInfo,
};

use clap::ValueEnum;
use tracing_subscriber::{
    EnvFilter, Layer, Registry, filter::ParseError, layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// The flags every daemon has; flatten it into its arguments.
#[derive(clap::Args, Clone, Debug)]
pub struct TelemetryArgs {
    /// How log lines look.
    #[arg(
        long,
        env = "BISMUTH_LOG_FORMAT",
        value_enum,
        default_value_t,
        global = true
    )]
    pub log_format: LogFormat,

    /// What is logged: a level, or directives such as `info,bismuthd=debug`.
    #[arg(long, env = "BISMUTH_LOG_LEVEL", default_value = "info", global = true)]
    pub log_level: String,
}

impl Default for TelemetryArgs {
    fn default() -> Self {
        Self {
            log_format: LogFormat::default(),
            log_level: "info".to_owned(),
        }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people; coloured when standard error is a terminal.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Why logging did not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `--log-level` is not a list of filter directives.
    #[error("understand --log-level {directives:?}")]
    Filter {
        /// What was given.
        directives: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// Logging was started before in this process.
    #[error("start logging: it is already started")]
    AlreadyStarted,
}

/// Starts logging to standard error, and sends panics there too.
///
/// # Errors
/// When the directives cannot be understood, or logging is already started.
pub fn init(args: &TelemetryArgs) -> Result<(), TelemetryError> {
    let filter = EnvFilter::try_new(&args.log_level).map_err(|source| TelemetryError::Filter {
        directives: args.log_level.clone(),
        source,
    })?;
    tracing_subscriber::registry()
        .with(lines(args.log_format))
        .with(filter)
        .try_init()
        .map_err(|_| TelemetryError::AlreadyStarted)?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

fn lines(format: LogFormat) -> Box<dyn Layer<Registry> + Send + Sync> {
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Text => layer.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    }
}

/// Whoever catches the panic says what it meant; this says where it came from.
fn log_panic(info: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let backtrace = Backtrace::capture();
    tracing::error!(
        thread = thread.name().unwrap_or("unnamed"),
        location = info.location().map(tracing::field::display),
        backtrace = (backtrace.status() == BacktraceStatus::Captured)
            .then(|| tracing::field::display(&backtrace)),
        "panic: {}",
        panic_message(info.payload()),
    );
}

/// The text of a panic, as far as it has one.
pub(crate) fn panic_message(payload: &(dyn std::any::Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a value that is not text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_level_is_named() {
        let error = init(&TelemetryArgs {
            log_level: "info,=nonsense=".to_owned(),
            ..TelemetryArgs::default()
        })
        .expect_err("these are not directives");
        assert_eq!(
            error.to_string(),
            "understand --log-level \"info,=nonsense=\""
        );
    }

    #[test]
    fn flags_have_defaults_and_are_parsed() {
        #[derive(clap::Parser)]
        struct Args {
            #[command(flatten)]
            telemetry: TelemetryArgs,
        }
        use clap::Parser as _;
        let args = Args::parse_from(["daemon", "--log-format", "json"]).telemetry;
        assert_eq!(args.log_format, LogFormat::Json);
        assert_eq!(args.log_level, "info");
    }
}
