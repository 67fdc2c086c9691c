use super::*;

/// Everything that bismuthd sets, for a function with an init of its own and a run directory.
fn input() -> SpecInput {
    let map = IdMapping {
        container: 0,
        host: 1_000_000,
        size: 65_536,
    };
    let state = Path::new("/var/lib/bismuth/containers/6f9d7a52-9b5b-4f0e-8a44-3b6a5f1f0c11");
    SpecInput {
        id: "6f9d7a52-9b5b-4f0e-8a44-3b6a5f1f0c11".to_owned(),
        args: ["/usr/bin/python3", "-m", "http.server"]
            .map(str::to_owned)
            .to_vec(),
        env: ["PATH=/usr/bin:/bin", "EMPTY="].map(str::to_owned).to_vec(),
        cwd: "/srv".into(),
        uid: 1000,
        gid: 1000,
        additional_gids: vec![44],
        hostname: "6f9d7a52".to_owned(),
        root_path: state.join("root"),
        uid_map: vec![map],
        gid_map: vec![map],
        userns_path: state.join("ns/user"),
        netns_path: state.join("ns/net"),
        cgroups_path: "/bismuth/6f9d7a52-9b5b-4f0e-8a44-3b6a5f1f0c11".into(),
        cpu: 1.5,
        memory: 128 << 20,
        limit_swap: true,
        pids: DEFAULT_PIDS_LIMIT,
        nofile: DEFAULT_NOFILE_LIMIT,
        oom_score_adj: DEFAULT_OOM_SCORE_ADJ,
        shm_bytes: DEFAULT_SHM_BYTES,
        tmpfs_mounts: Vec::new(),
        mounts: vec![
            BindMount {
                source: "/usr/lib/bismuth/bismuth-init".into(),
                destination: "/.bismuth/init".into(),
                writable: false,
                executable: true,
            },
            BindMount {
                source: state.join("run"),
                destination: "/.bismuth/run".into(),
                writable: true,
                executable: false,
            },
        ],
        seccomp: None,
    }
}

fn built(change: impl FnOnce(&mut SpecInput)) -> serde_json::Value {
    let mut input = input();
    change(&mut input);
    let spec = build(&input).expect("a good input");
    serde_json::to_value(spec).expect("a spec is JSON")
}

fn refused(change: impl FnOnce(&mut SpecInput)) -> String {
    let mut input = input();
    change(&mut input);
    build(&input).expect_err("a bad input").to_string()
}

/// To accept a change: look at the difference, then copy the left side into the file.
#[test]
fn the_whole_spec_equals_the_golden_file() {
    let golden = include_str!("golden.json");
    let golden: serde_json::Value = serde_json::from_str(golden).expect("the golden file is JSON");
    let built = built(|_| {});
    assert_eq!(built, golden, "built:\n{built:#}");
}

#[test]
fn fractions_of_a_core_become_quota_and_shares_within_the_kernels_bounds() {
    let cpu = |cores: f64| {
        let spec = built(|input| input.cpu = cores);
        let cpu = &spec["linux"]["resources"]["cpu"];
        (cpu["quota"].as_i64(), cpu["shares"].as_u64())
    };
    assert_eq!(cpu(0.25), (Some(25_000), Some(256)));
    assert_eq!(cpu(0.001), (Some(1_000), Some(2)));
    assert_eq!(cpu(1024.0), (Some(102_400_000), Some(262_144)));
}

#[test]
fn swap_is_limited_only_where_the_kernel_accounts_it() {
    let memory = |limit_swap| {
        built(|input| input.limit_swap = limit_swap)["linux"]["resources"]["memory"].clone()
    };
    assert_eq!(
        memory(true),
        serde_json::json!({"limit": 134_217_728, "swap": 134_217_728})
    );
    assert_eq!(memory(false), serde_json::json!({"limit": 134_217_728}));
}

#[test]
fn a_seccomp_profile_is_passed_on_unchanged() {
    let spec = built(|input| input.seccomp = Some(LinuxSeccomp::default()));
    assert!(spec["linux"]["seccomp"]["defaultAction"].is_string());
}

#[test]
fn an_input_that_no_runtime_would_accept_is_refused_by_field() {
    let id = input().id;
    let prefix = |field: &str| format!("runtime spec of {id}: {field}: ");
    assert!(refused(|i| i.args.clear()).starts_with(&prefix("args")));
    assert!(refused(|i| i.args = vec![String::new()]).starts_with(&prefix("args")));
    assert!(refused(|i| i.env = vec!["A=\0".to_owned()]).starts_with(&prefix("args")));
    assert!(refused(|i| i.env = vec!["=x".to_owned()]).starts_with(&prefix("env")));
    assert!(refused(|i| i.cwd = "srv".into()).starts_with(&prefix("cwd")));
    assert!(refused(|i| i.netns_path = "net".into()).starts_with(&prefix("netns_path")));
    assert!(refused(|i| i.mounts[0].destination = "x".into()).starts_with(&prefix("mounts")));
    assert!(refused(|i| i.hostname = "x".repeat(65)).starts_with(&prefix("hostname")));
    assert!(refused(|i| i.uid_map.clear()).starts_with(&prefix("uid_map")));
    for cpu in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(refused(|i| i.cpu = cpu).starts_with(&prefix("cpu")));
    }
    for memory in [0, u64::MAX] {
        assert!(refused(|i| i.memory = memory).starts_with(&prefix("memory")));
    }
    assert!(refused(|i| i.pids = 0).starts_with(&prefix("pids")));
    assert!(refused(|i| i.nofile = 0).starts_with(&prefix("nofile")));
    assert!(refused(|i| i.oom_score_adj = 1001).starts_with(&prefix("oom_score_adj")));
}
