//! The suite on PostgreSQL, and cases in which the server is unavailable.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bismuth_store::objects::Objects;
use bismuth_store::objects::files::Files;
use bismuth_store::records::postgres::Postgres;
use bismuth_store::records::{Keyspace, Records};
use bismuth_testkit::{PostgreSql, eventually};
use tempfile::TempDir;

use crate::embedded::files_below;
use crate::s3::OnS3;
use crate::test_engines::{
    AWAY_BOUND, EVENTUALLY_TIMEOUT, TestEngines, add, at, away, failure, get, join, make, put,
    summed, usage, value,
};

pub struct OnServers {
    url: String,
    records: Arc<dyn Records>,
    others: Arc<dyn Records>,
    dir: TempDir,
    objects: Arc<dyn Objects>,
}

impl OnServers {
    async fn new(server: &PostgreSql, database: &str) -> Self {
        server.create_database(database).unwrap();
        let url = server.url(database);
        let dir = tempfile::tempdir().unwrap();
        Self {
            records: open(&url),
            others: open(&url),
            objects: Arc::new(Files::open(dir.path()).unwrap()),
            url,
            dir,
        }
    }
}

fn open(url: &str) -> Arc<dyn Records> {
    Arc::new(Postgres::open(url).unwrap())
}

#[async_trait]
impl TestEngines for OnServers {
    fn records(&self) -> Arc<dyn Records> {
        self.records.clone()
    }

    fn others(&self) -> Arc<dyn Records> {
        self.others.clone()
    }

    fn objects(&self) -> Arc<dyn Objects> {
        self.objects.clone()
    }

    fn object_count(&self) -> usize {
        files_below(self.dir.path()).len()
    }

    async fn reopen(&mut self) {
        self.records = open(&self.url);
        self.others = open(&self.url);
    }
}

/// Runs every case against one server, each in a database of its own with a bucket of its own, and says which failed. (One test per case would start one server per case.)
macro_rules! server_cases {
    ($($first:ident $(::$rest:ident)+,)*) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn servers_answer_as_the_suite_says() {
            let server = PostgreSql::start().await.unwrap();
            let mut failed = Vec::new();
            let mut number = 0;
            $({
                number += 1;
                let records = OnServers::new(&server, &format!("case_{number}")).await;
                let mut engines = OnS3::new(records).await;
                let case = crate::$first$(::$rest)+(&mut engines);
                failed.extend(failure(stringify!($first$(::$rest)+), case).await);
            })*
            assert!(failed.is_empty(), "failed: {failed:?} (why is said above)");
        }
    };
}
crate::for_every_case!(server_cases);

async fn all_away(records: &Arc<dyn Records>) {
    let key = at("key");
    tokio::join!(
        away(AWAY_BOUND, records.get(&key)),
        away(AWAY_BOUND, make(records, put("key", "new"))),
        away(AWAY_BOUND, records.usage("group", Keyspace::Kv)),
        away(AWAY_BOUND, records.check()),
    );
}

async fn comes_back(records: &Arc<dyn Records>) {
    eventually("the records answer", EVENTUALLY_TIMEOUT, || records.check()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_is_said_to_be_within_a_second_and_found_when_it_is_back() {
    let mut server = PostgreSql::start().await.unwrap();
    let records = open(&server.url("postgres"));
    make(&records, put("key", "old")).await.unwrap();
    server.kill().await.unwrap();
    all_away(&records).await;
    server.restart().await.unwrap();
    comes_back(&records).await;
    assert_eq!(value(&records, "key").await.unwrap(), "old");

    server.pause().unwrap();
    all_away(&records).await;
    server.resume().unwrap();
    comes_back(&records).await;
    // The server may have made what nobody waited for.
    assert!(["old", "new"].contains(&value(&records, "key").await.unwrap().as_str()));
    make(&records, put("key", "newer")).await.unwrap();
    assert_eq!(value(&records, "key").await.unwrap(), "newer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_opened_without_a_server_are_there_when_it_comes() {
    let mut server = PostgreSql::start().await.unwrap();
    server.kill().await.unwrap();
    let records = open(&server.url("postgres"));
    all_away(&records).await;
    server.restart().await.unwrap();
    comes_back(&records).await;
    make(&records, put("key", "value")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_may_start_at_once_on_an_empty_database() {
    let server = PostgreSql::start().await.unwrap();
    for round in 0..3 {
        let database = format!("empty_{round}");
        server.create_database(&database).unwrap();
        let starts = (0..8).map(|_| {
            let records = open(&server.url(&database));
            tokio::spawn(async move { make(&records, add("n", 1)).await })
        });
        for made in join(starts).await {
            made.unwrap();
        }
        let records = open(&server.url(&database));
        assert_eq!(value(&records, "n").await.unwrap(), "8");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_a_newer_program_are_left_alone() {
    let server = PostgreSql::start().await.unwrap();
    let records = open(&server.url("postgres"));
    make(&records, put("key", "value")).await.unwrap();
    let newer = "INSERT INTO bismuth_migration VALUES (99)";
    server.execute("postgres", newer).unwrap();
    let error = open(&server.url("postgres")).check().await.unwrap_err();
    assert!(error.to_string().contains("too old"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_cut_off_leaves_no_lock_and_no_half_of_a_batch() {
    let server = PostgreSql::start().await.unwrap();
    let records = open(&server.url("postgres"));
    make(&records, add("n", 1)).await.unwrap();
    for _ in 0..30 {
        let cut = Duration::from_micros(fastrand::u64(0..4000));
        let batch = vec![add("n", 1), put("m", "value"), add("n", -1), put("m", "")];
        let _ = tokio::time::timeout(cut, records.write(batch)).await;
    }
    make(&records, add("n", 1)).await.unwrap();
    assert_eq!(value(&records, "n").await.unwrap(), "2");
    let left = get(&records, "m").await;
    assert!(left.is_none_or(|record| record.value.is_empty()));
    assert_eq!(usage(&records).await, summed(&records).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn additions_that_were_answered_survive_kills_of_the_server() {
    let mut server = PostgreSql::start().await.unwrap();
    let records = open(&server.url("postgres"));
    make(&records, add("n", 0)).await.unwrap();
    let mut answered = 0;
    let mut unknown = 0;
    for _ in 0..3 {
        let writer = tokio::spawn({
            let records = Arc::clone(&records);
            async move {
                let mut made = 0;
                while make(&records, add("n", 1)).await.is_ok() {
                    made += 1;
                }
                made
            }
        });
        eventually("some are made", EVENTUALLY_TIMEOUT, async || {
            let n = value(&records, "n").await.unwrap_or_default();
            let many = n.parse::<i64>().is_ok_and(|n| n >= answered + unknown + 20);
            many.then_some(()).ok_or(n)
        })
        .await;
        server.kill().await.unwrap();
        answered += writer.await.unwrap();
        unknown += 1;
        server.restart().await.unwrap();
        comes_back(&records).await;
    }
    let n: i64 = value(&records, "n").await.unwrap().parse().unwrap();
    assert!(
        (answered..=answered + unknown).contains(&n),
        "{n} of {answered} and {unknown}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_calls_leave_no_more_connections_than_the_pool_has() {
    let server = PostgreSql::start().await.unwrap();
    let url = server.url("postgres");
    let records = open(&url);
    make(&records, put("key", "old")).await.unwrap();
    let connected = tokio_postgres::connect(&url, tokio_postgres::NoTls).await;
    let (operator, connection) = connected.unwrap();
    tokio::spawn(connection);
    // Somebody holds the lock that every write of the group needs.
    let hold = "BEGIN; SELECT * FROM bismuth_counter FOR UPDATE";
    operator.batch_execute(hold).await.unwrap();
    for _ in 0..3 {
        let calls = (0..40).map(|_| away(AWAY_BOUND, make(&records, put("key", "new"))));
        futures_util::future::join_all(calls).await;
        let count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'svcprovider'";
        let count: i64 = operator.query_one(count, &[]).await.unwrap().get(0);
        assert!((1..=16).contains(&count), "{count} connections");
    }
    operator.batch_execute("COMMIT").await.unwrap();
    eventually("a write is made", EVENTUALLY_TIMEOUT, || {
        make(&records, put("key", "newer"))
    })
    .await;
    assert_eq!(value(&records, "key").await.unwrap(), "newer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_wants_tls_and_a_password_is_checked_and_gets_them() {
    let server = PostgreSql::start_secured().await.unwrap();
    let url = |password| server.secured_url("postgres", password);
    let records = open(&url("not%20a%20secret"));
    make(&records, put("key", "value")).await.unwrap();
    assert_eq!(value(&records, "key").await.unwrap(), "value");
    // Somebody else's authority, no TLS, a wrong password: each may be mended without us.
    let right = url("not%20a%20secret");
    let (browsers, _) = right.split_once("&sslrootcert").unwrap();
    for refused in [browsers, &server.url("postgres"), &url("wrong")] {
        away(AWAY_BOUND, open(refused).get(&at("key"))).await;
    }
}
