use super::*;
use crate::tasks::{SIGKILL, TeardownStep};

fn container(id: &str) -> NewContainer {
    NewContainer {
        id: id.to_owned(),
        spec: oci_spec::runtime::Spec::default(),
        image: None,
        labels: std::collections::HashMap::new(),
        runtime: "runc".to_owned(),
    }
}

async fn running(fake: &FakeContainerd, id: &str) -> u32 {
    fake.create_container(container(id))
        .await
        .expect("recorded");
    let pid = fake.create_task(id, Stdio::null()).await.expect("created");
    fake.start(id).await.expect("started");
    pid
}

#[tokio::test(start_paused = true)]
async fn a_task_lives_and_dies_as_containerds_does() {
    let fake = FakeContainerd::default();
    let mut events = fake.events();
    let pid = running(&fake, "a").await;
    assert!(matches!(
        fake.delete_task("a").await,
        Err(Error::FailedPrecondition(_))
    ));
    assert!(matches!(
        fake.create_container(container("a")).await,
        Err(Error::AlreadyExists(_))
    ));

    fake.exit("a", 3);
    assert_eq!(events.next().await, Some(TaskEvent::Lost));
    let exit = events.next().await;
    assert!(
        matches!(&exit, Some(TaskEvent::Exit { id, pid: p, status: 3, .. }) if id == "a" && *p == pid),
        "{exit:?}"
    );
    assert!(matches!(
        fake.kill("a", SIGKILL, true).await,
        Err(Error::NotFound(_))
    ));
    assert_eq!(fake.wait("a").await.expect("stopped").status, 3);
    fake.teardown("a").await.expect("torn down");
    assert!(fake.list_containers().await.expect("listed").is_empty());
    fake.teardown("a").await.expect("twice is harmless");
}

#[tokio::test(start_paused = true)]
async fn wait_returns_on_an_exit_and_on_its_deadline() {
    let fake = FakeContainerd::default();
    running(&fake, "a").await;
    let (waited, ()) = tokio::join!(fake.wait("a"), async { fake.exit("a", 0) });
    assert_eq!(waited.expect("stopped").status, 0);

    running(&fake, "b").await;
    assert!(matches!(
        fake.wait("b").await,
        Err(Error::DeadlineExceeded { .. })
    ));
}

#[tokio::test(start_paused = true)]
async fn scripted_faults_hit_their_calls_in_order() {
    let fake = FakeContainerd::default();
    fake.script(
        Act::CreateTask,
        Fault::Fail(Code::Unknown, "runc create failed".to_owned()),
    );
    fake.script(Act::CreateTask, Fault::Hang);
    fake.script(Act::Start, Fault::ExitsAtOnce(127));
    fake.create_container(container("a"))
        .await
        .expect("recorded");
    let failed = fake
        .create_task("a", Stdio::null())
        .await
        .expect_err("scripted");
    assert_eq!(
        failed.to_string(),
        "create task a: runc create failed (grpc Unknown)"
    );
    let hung = fake
        .create_task("a", Stdio::null())
        .await
        .expect_err("scripted");
    assert!(matches!(hung, Error::DeadlineExceeded { .. }));
    fake.create_task("a", Stdio::null())
        .await
        .expect("no script left");
    fake.start("a").await.expect("started");
    assert_eq!(fake.wait("a").await.expect("stopped").status, 127);
    assert_eq!(fake.count(Act::CreateTask), 3);
}

#[tokio::test(start_paused = true)]
async fn a_teardown_reports_every_failure_and_keeps_the_record_of_a_task_it_could_not_delete() {
    let fake = FakeContainerd::default();
    running(&fake, "a").await;
    fake.script(
        Act::Kill,
        Fault::Fail(Code::Unknown, "shim is gone".to_owned()),
    );
    fake.script(Act::Wait, Fault::Hang);
    fake.script(
        Act::DeleteTask,
        Fault::Fail(Code::Unavailable, "ttrpc: closed".to_owned()),
    );
    let error = fake.teardown("a").await.expect_err("scripted");
    let steps: Vec<_> = error.failures.iter().map(|(step, _)| *step).collect();
    assert_eq!(
        steps,
        [
            TeardownStep::Kill,
            TeardownStep::Wait,
            TeardownStep::DeleteTask
        ]
    );
    let text = error.to_string();
    assert!(
        text.contains("shim is gone") && text.contains("ttrpc: closed"),
        "{text}"
    );
    assert_eq!(fake.list_containers().await.expect("listed").len(), 1);

    fake.teardown("a").await.expect("the next attempt succeeds");
    assert!(fake.list_containers().await.expect("listed").is_empty());
}
