//! Golden bytes, and every pair of encoder and decoder.

use std::collections::BTreeMap;

use bismuth_model::{
    Affinity, ContainerId, ContainerState, ContainerStatus, Egress, FunctionDefinition, Hostname,
    InvokeMode, LeaderRecord, Readiness, Repo, Revision, Route, SecretUse, ServiceQuotas,
    StoreClaim, TermRecord,
};
use proptest::option;
use proptest::prelude::*;

use super::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// These bytes are in ZooKeeper on somebody's machines. They never change, and stay readable for ever.
fn golden<R: Record + PartialEq + std::fmt::Debug>(record: &R, bytes: &str) {
    let encoded = record.encode().unwrap();
    assert_eq!(hex(&encoded), bytes.replace([' ', '\n'], ""));
    assert_eq!(&R::decode(&encoded).unwrap(), record);
}

const ID: &str = "67e55044-10b1-426f-9247-bb680e5fe0c8";

fn full_record() -> FunctionRecord {
    let mut definition = FunctionDefinition::new(
        "localhost:5000/a:1".parse().unwrap(),
        InvokeMode::Server(vec!["/bin/httpd".into(), "-f".into()], 8000),
    );
    definition.cpu = 0.5;
    definition.memory = 128 << 20;
    definition.disk = 64 << 20;
    definition.env = [("A".to_owned(), "1".to_owned())].into();
    definition.routes = vec![Route {
        hostname: Hostname::parse("a.b").unwrap(),
    }];
    definition.max_instances = 4;
    definition.min_instances = 1;
    definition.concurrency = 8;
    definition.timeout_ms = 1000;
    definition.idle_timeout_ms = 2000;
    definition.startup_timeout_ms = 3000;
    definition.idle_pause_ms = 4000;
    definition.idle_stop_ms = 5000;
    definition.repo = Some(Repo("u".into(), "m".into()));
    definition.svc_group_id = Some("g".into());
    definition.svc_quotas = ServiceQuotas {
        kv_bytes: Some(10),
        kv_keys: None,
        blob_bytes: Some(300),
        blob_count: None,
        requests_per_second: Some(5),
    };
    definition.user = Some("1000".into());
    definition.egress = Egress::None;
    definition.affinity = Some(Affinity::Cookie("sid".into()));
    definition.readiness = Some(Readiness { path: "/r".into() });
    FunctionRecord {
        revision: Revision(3),
        definition,
        created_ms: 1_700_000_000_000,
        updated_ms: 1_700_000_000_001,
    }
}

#[test]
fn golden_function_record() {
    golden(
        &full_record(),
        "01 03 fd0068e5cf8b010000 fd0168e5cf8b010000
         12 6c6f63616c686f73743a353030302f613a31
         00 02 0a 2f62696e2f6874747064 02 2d66 fb401f
         000000000000e03f fc00000008 fc00000004
         01 01 41 01 31 01 03 612e62 04 01 08 fbe803 fbd007 fbb80b fba00f fb8813
         01 01 75 01 6d 01 01 67 01 0a 00 01 fb2c01 00 01 05 01 04 31303030
         00 01 01 03 736964 01 02 2f72",
    );
}

#[test]
fn golden_function_record_with_secrets() {
    let mut record = full_record();
    let first = hex(&record.encode().unwrap());
    record.definition.secrets = vec![SecretUse {
        name: "s".into(),
        env: Some("E".into()),
        file: None,
    }];
    golden(&record, &format!("02 {} 01 01 73 01 01 45 00", &first[2..]));
}

#[test]
fn golden_smallest_function_record() {
    let mode = InvokeMode::Executable(vec!["/bin/ls".into()]);
    let definition = FunctionDefinition {
        cpu: 1.0,
        memory: 1,
        disk: 2,
        concurrency: 3,
        timeout_ms: 4,
        idle_timeout_ms: 5,
        startup_timeout_ms: 6,
        idle_pause_ms: 7,
        idle_stop_ms: 8,
        ..FunctionDefinition::new("a/b".parse().unwrap(), mode)
    };
    golden(
        &FunctionRecord {
            revision: Revision(1),
            definition,
            created_ms: 0,
            updated_ms: 0,
        },
        "01 01 00 00 14 646f636b65722e696f2f612f623a6c6174657374 01 01 07 2f62696e2f6c73
         000000000000f03f 01 02 00 00 01 00 03 04 05 06 07 08 00 00 00 00 00 00 00 00 00 00 00",
    );
}

#[test]
fn golden_container_record() {
    let status = ContainerStatus {
        state: ContainerState::Failed,
        reason: Some("exit 1".into()),
        ip: Some([10, 0, 0, 7].into()),
        pid: Some(4242),
        created_ms: 1,
        started_ms: Some(2),
        changed_ms: 3,
    };
    golden(
        &ContainerRecord {
            function_id: ID.parse().unwrap(),
            revision: Revision(2),
            status,
        },
        "01 67e5504410b1426f9247bb680e5fe0c8 02 06 01 06 657869742031 01 0a000007 01 fb9210 01 01 02 03",
    );
    for (tag, state) in ContainerState::ALL.into_iter().enumerate() {
        let status = ContainerStatus {
            state,
            ..ContainerStatus::assigned(0)
        };
        let record = ContainerRecord {
            function_id: ID.parse().unwrap(),
            revision: Revision(1),
            status,
        };
        golden(
            &record,
            &format!("01 67e5504410b1426f9247bb680e5fe0c8 01 {tag:02x} 00 00 00 00 00 00"),
        );
    }
}

#[test]
fn golden_node_facts() {
    let versions = [
        ("bismuthd".to_owned(), "0.1".to_owned()),
        ("kernel".to_owned(), "6".to_owned()),
    ]
    .into();
    golden(
        &NodeFacts {
            cores: 2,
            memory: 1 << 33,
            versions,
            epoch: "e1".into(),
        },
        "01 02 fd0000000002000000 02 08 6269736d75746864 03 302e31 06 6b65726e656c 01 36 02 6531",
    );
}

#[test]
fn golden_route_node_and_backends() {
    golden(
        &ID.parse::<FunctionId>().unwrap(),
        "01 67e5504410b1426f9247bb680e5fe0c8",
    );
    golden(&NodeRecord { schedulable: false }, "00");
    golden(&NodeRecord { schedulable: true }, "01");
    let backend = Backend {
        ip: [127, 0, 0, 1].into(),
        container_id: ID.parse::<ContainerId>().unwrap(),
    };
    golden(
        &vec![backend, backend],
        &"7f000001 67e5504410b1426f9247bb680e5fe0c8".repeat(2),
    );
    golden(&Vec::<Backend>::new(), "");
}

#[test]
fn golden_store_claim() {
    let claim = StoreClaim {
        node: [10, 0, 0, 7].into(),
        store: "s1".into(),
    };
    golden(&claim, "01 0a000007 02 7331");
}

#[test]
fn golden_leader_and_term() {
    let leader = LeaderRecord {
        name: "a1".into(),
        term: 3,
        since_ms: 1_700_000_000_000,
    };
    golden(&leader, "01 02 6131 03 fd0068e5cf8b010000");
    let term = TermRecord {
        number: 3,
        name: "a1".into(),
        since_ms: 1_700_000_000_000,
    };
    golden(&term, "01 03 02 6131 fd0068e5cf8b010000");
}

#[test]
fn bytes_that_are_no_record_are_refused_by_name() {
    let decode = |bytes: &[u8]| FunctionRecord::decode(bytes).unwrap_err();
    assert!(matches!(decode(b""), Error::Empty { .. }));
    assert!(matches!(
        decode(b"\0"),
        Error::UnknownVersion { version: 0, .. }
    ));
    assert!(matches!(
        decode(b"\x03rest"),
        Error::UnknownVersion { version: 3, .. }
    ));
    assert!(matches!(decode(b"\x01"), Error::Malformed { .. }));
    let good = full_record().encode().unwrap();
    assert!(matches!(
        decode(&good[..good.len() - 1]),
        Error::Malformed { .. }
    ));
    let longer = [&good[..], b"\0"].concat();
    assert!(
        decode(&longer)
            .to_string()
            .contains("1 bytes are left over")
    );
    assert!(matches!(
        decode(&[1; MAX_DATA_BYTES + 1]),
        Error::Malformed { .. }
    ));
    assert!(NodeRecord::decode(b"\x02").is_err() && NodeRecord::decode(b"\x01\x01").is_err());
}

#[test]
fn a_value_outside_the_model_is_refused_with_its_field() {
    let good = full_record().encode().unwrap();
    let field_of = |from: &[u8], to: &[u8]| {
        assert_eq!(from.len(), to.len());
        let at = good
            .windows(from.len())
            .position(|window| window == from)
            .unwrap();
        let mut bytes = good.to_vec();
        bytes[at..at + to.len()].copy_from_slice(to);
        match FunctionRecord::decode(&bytes).unwrap_err() {
            Error::Field { field, .. } => field,
            other => panic!("{other}"),
        }
    };
    assert_eq!(field_of(b"localhost", b"LOCAL  ST"), "definition.image");
    assert_eq!(field_of(b"\x03a.b", b"\x03a b"), "definition.routes");
    assert_eq!(
        field_of(&0.5_f64.to_le_bytes(), &f64::NAN.to_le_bytes()),
        "definition.cpu"
    );
    assert_eq!(
        field_of(b"/bin/httpd", b"/bin\0httpd"),
        "definition.invoke_mode"
    );
}

#[test]
fn a_false_length_prefix_allocates_almost_nothing() {
    // A text of 2^63 bytes, and a map of 2^32 entries.
    let text = [&[1, 0, 0, 0, 0xfd][..], &(1_u64 << 63).to_le_bytes()].concat();
    assert!(matches!(
        FunctionRecord::decode(&text),
        Err(Error::Malformed { .. })
    ));
    let map = [&[1, 1, 1, 0xfd][..], &(1_u64 << 32).to_le_bytes()].concat();
    assert!(matches!(
        NodeFacts::decode(&map),
        Err(Error::Malformed { .. })
    ));
}

#[test]
fn the_largest_list_that_fits_is_read_back() {
    // One byte per element is the densest there is: empty arguments.
    let mut record = full_record();
    let mut command = vec!["/bin/ls".to_owned()];
    command.resize(65_000, String::new());
    record.definition.invoke_mode = InvokeMode::Executable(command);
    assert_eq!(
        FunctionRecord::decode(&record.encode().unwrap()).unwrap(),
        record
    );
}

#[test]
fn a_record_that_is_too_large_is_refused_with_its_largest_field() {
    let mut record = full_record();
    record.definition.user = Some("x".repeat(70_000));
    let error = record.encode().unwrap_err();
    assert!(
        matches!(&error, Error::TooLarge { field, bytes, .. } if field == "user" && *bytes > 70_000),
        "{error}"
    );
    let mut status = ContainerStatus::assigned(0);
    status.reason = Some("x".repeat(70_000));
    let record = ContainerRecord {
        function_id: ID.parse().unwrap(),
        revision: Revision(1),
        status,
    };
    assert!(
        record
            .encode()
            .unwrap_err()
            .to_string()
            .contains("status.reason")
    );
}

#[test]
fn records_as_json() {
    let layout = crate::Layout::new(&bismuth_model::Environment::default());
    let id: FunctionId = ID.parse().unwrap();
    let show = |path: &str, bytes: &[u8]| layout.json(path, bytes).unwrap();
    let function = show(&layout.function(id), &full_record().encode().unwrap());
    assert_eq!(function["definition"]["invoke_mode"]["Server"][1], 8000);
    assert_eq!(
        show(
            &layout.route(&Hostname::parse("a.b").unwrap()),
            &id.encode().unwrap()
        )["function_id"],
        ID
    );
    assert_eq!(
        show(&layout.node([1, 2, 3, 4].into()), b"\x01")["schedulable"],
        true
    );
    let backend = Backend {
        ip: [1, 2, 3, 4].into(),
        container_id: ID.parse().unwrap(),
    };
    let list = show(&layout.backends(id), &vec![backend].encode().unwrap());
    assert_eq!(
        list,
        serde_json::json!([{ "ip": "1.2.3.4", "container_id": ID }])
    );
    let term = TermRecord {
        number: 3,
        name: "a1".into(),
        since_ms: 5,
    };
    assert_eq!(
        show(&layout.term(), &term.encode().unwrap()),
        serde_json::json!({ "number": 3, "name": "a1", "since_ms": 5 })
    );
    let leader = LeaderRecord {
        name: "a1".into(),
        term: 3,
        since_ms: 5,
    };
    assert_eq!(
        show(&layout.leader(), &leader.encode().unwrap()),
        serde_json::json!({ "name": "a1", "term": 3, "since_ms": 5 })
    );
    assert_eq!(show(layout.root(), b""), Value::Null);
    assert!(layout.json("/default/nothing", b"").is_err());
    assert!(layout.json(&layout.function(id), b"\xff").is_err());
}

prop_compose! {
    fn quotas()(q in prop::array::uniform5(option::of(any::<u64>()))) -> ServiceQuotas {
        let [kv_bytes, kv_keys, blob_bytes, blob_count, requests_per_second] = q;
        ServiceQuotas { kv_bytes, kv_keys, blob_bytes, blob_count, requests_per_second }
    }
}

fn mode() -> impl Strategy<Value = InvokeMode> {
    let command = || prop::collection::vec("[a-z /]{1,12}", 1..5);
    prop_oneof![
        (command(), 1..=u16::MAX).prop_map(|(command, port)| InvokeMode::Server(command, port)),
        command().prop_map(InvokeMode::Executable),
    ]
}

fn affinity() -> impl Strategy<Value = Affinity> {
    prop_oneof![
        ".*".prop_map(Affinity::Header),
        ".*".prop_map(Affinity::Cookie)
    ]
}

prop_compose! {
    fn texts()(
        repo in option::of((".*", ".*")), group in option::of(".*"), user in option::of(".*"),
        affinity in option::of(affinity()), readiness in option::of(".*"),
        env in prop::collection::btree_map(".*", ".*", 0..5), routes in prop::collection::vec("[a-z]{1,9}", 0..4),
    ) -> FunctionDefinition {
        let mut definition = FunctionDefinition::new("a".parse().unwrap(), InvokeMode::Executable(vec!["x".into()]));
        definition.repo = repo.map(|(url, branch)| Repo(url, branch));
        definition.svc_group_id = group;
        definition.user = user;
        definition.affinity = affinity;
        definition.readiness = readiness.map(|path| Readiness { path });
        definition.env = env;
        definition.routes = routes.iter().map(|name| Route { hostname: Hostname::parse(name).unwrap() }).collect();
        definition
    }
}

prop_compose! {
    fn secret()(name in ".*", env in option::of(".*"), file in option::of(".*")) -> SecretUse {
        SecretUse { name, env, file }
    }
}

prop_compose! {
    fn function()(
        definition in texts(), image in "[a-z]{1,9}(/[a-z]{1,9})?(:[a-z0-9]{1,9})?", invoke_mode in mode(),
        cpu in -1e9..1e9_f64, sizes in any::<[u64; 7]>(), counts in any::<[u32; 3]>(), svc_quotas in quotas(),
        secrets in prop::collection::vec(secret(), 0..3),
        revision in any::<u64>(), created_ms in any::<u64>(), updated_ms in any::<u64>(),
    ) -> FunctionRecord {
        let [memory, disk, timeout_ms, idle_timeout_ms, startup_timeout_ms, idle_pause_ms, idle_stop_ms] = sizes;
        let [max_instances, min_instances, concurrency] = counts;
        let definition = FunctionDefinition {
            image: image.parse().unwrap(), invoke_mode, cpu, memory, disk, max_instances, min_instances, concurrency,
            timeout_ms, idle_timeout_ms, startup_timeout_ms, idle_pause_ms, idle_stop_ms, svc_quotas, secrets,
            ..definition
        };
        FunctionRecord { revision: Revision(revision), definition, created_ms, updated_ms }
    }
}

prop_compose! {
    fn container()(
        function_id in any::<[u8; 16]>(), revision in any::<u64>(), state in prop::sample::select(&ContainerState::ALL[..]),
        reason in option::of(".*"), ip in option::of(any::<[u8; 4]>()), pid in option::of(any::<u32>()),
        created_ms in any::<u64>(), started_ms in option::of(any::<u64>()), changed_ms in any::<u64>(),
    ) -> ContainerRecord {
        let ip = ip.map(Into::into);
        let status = ContainerStatus { state, reason, ip, pid, created_ms, started_ms, changed_ms };
        ContainerRecord { function_id: FunctionId::from_bytes(function_id), revision: Revision(revision), status }
    }
}

fn reads_back<R: Record + PartialEq + std::fmt::Debug>(record: &R) -> Result<(), TestCaseError> {
    let decoded = R::decode(&record.encode().unwrap());
    prop_assert_eq!(&decoded.unwrap(), record);
    Ok(())
}

/// Whatever decodes says the same when it is stored again.
fn never_panics<R: Record + PartialEq + std::fmt::Debug>(
    bytes: &[u8],
) -> Result<(), TestCaseError> {
    match R::decode(bytes) {
        Ok(record) => reads_back(&record),
        Err(_) => Ok(()),
    }
}

proptest! {
    #[test]
    fn every_function_record_reads_back(record in function()) {
        reads_back(&record)?;
    }

    #[test]
    fn every_container_record_reads_back(record in container()) {
        reads_back(&record)?;
    }

    #[test]
    fn all_node_facts_read_back(
        cores in any::<u32>(), memory in any::<u64>(), epoch in ".*",
        versions in prop::collection::btree_map(".*", ".*", 0..5),
    ) {
        let versions: BTreeMap<String, String> = versions;
        reads_back(&NodeFacts { cores, memory, versions, epoch })?;
    }

    #[test]
    fn every_route_reads_back(id in any::<[u8; 16]>()) {
        reads_back(&FunctionId::from_bytes(id))?;
    }

    #[test]
    fn every_backend_list_reads_back(list in prop::collection::vec((any::<[u8; 4]>(), any::<[u8; 16]>()), 0..50)) {
        let list: Vec<Backend> = list.into_iter()
            .map(|(ip, id)| Backend { ip: ip.into(), container_id: ContainerId::from_bytes(id) })
            .collect();
        reads_back(&list)?;
    }

    #[test]
    fn arbitrary_bytes_never_panic(version in 0..3_u8, bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let bytes = [&[version][..], &bytes].concat();
        never_panics::<FunctionRecord>(&bytes)?;
        never_panics::<ContainerRecord>(&bytes)?;
        never_panics::<NodeFacts>(&bytes)?;
        never_panics::<FunctionId>(&bytes)?;
        never_panics::<Vec<Backend>>(&bytes)?;
        never_panics::<NodeRecord>(&bytes)?;
        never_panics::<StoreClaim>(&bytes)?;
        never_panics::<LeaderRecord>(&bytes)?;
        never_panics::<TermRecord>(&bytes)?;
    }

    #[test]
    fn corrupted_records_never_panic(record in function(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = record.encode().unwrap().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        never_panics::<FunctionRecord>(&bytes)?;
    }
}
