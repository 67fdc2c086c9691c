use bismuth_containerd::images::PullPolicy;
use tokio::task::JoinHandle;

use super::*;
use crate::node::fakes::{self, Fakes};
use crate::node::slot::NotReady;

/// Far above what anything here takes, far below the drain bound.
const SOON: Duration = Duration::from_secs(5);

fn drive(fakes: &Fakes, slot: &Arc<Slot>, reporter: &StatusReporter) -> JoinHandle<()> {
    let bounds = StopBounds {
        drain: 10 * SOON,
        grace: SOON,
    };
    let (slot, launcher) = (Arc::clone(slot), Arc::clone(&fakes.launcher));
    let driver = Driver::new(slot, launcher, reporter.clone(), bounds, 1);
    tokio::spawn(driver.run(Origin::New))
}

async fn reported(reporter: &StatusReporter, slot: &Slot, state: ContainerState, words: &str) {
    let reported = async {
        loop {
            let status = reporter.get(slot.container_id);
            let reason = |s: ContainerStatus| s.reason.unwrap_or_default();
            if status.is_some_and(|s| s.state == state && reason(s).contains(words)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let waited = tokio::time::timeout(100 * SOON, reported).await;
    assert!(waited.is_ok(), "{:?}", reporter.get(slot.container_id));
}

#[tokio::test]
async fn a_slot_retired_during_its_cold_start_releases_its_requests_and_ends() {
    let (fakes, slot, reporter) = (Fakes::new(), fakes::slot(), StatusReporter::default());
    let image = slot.definition.image.as_reference();
    fakes.images.block(image);
    let driver = drive(&fakes, &slot, &reporter);
    let waiting = tokio::spawn({
        let slot = Arc::clone(&slot);
        async move {
            let _permit = slot.admission.admit(SOON).await.unwrap();
            slot.ensure_ready(10 * SOON).await.map(drop)
        }
    });
    reported(&reporter, &slot, ContainerState::Pulling, "").await;
    while slot.admission.in_flight() == 0 {
        tokio::task::yield_now().await;
    }
    slot.retire();
    let released = tokio::time::timeout(SOON, waiting).await;
    let released = released.expect("the request goes elsewhere").unwrap();
    assert!(matches!(released, Err(NotReady::Removed)), "{released:?}");
    let ended = tokio::time::timeout(SOON, driver).await;
    ended.expect("nothing is left to wait for").unwrap();
    assert!(reporter.get(slot.container_id).is_none());
}

#[tokio::test]
async fn a_slot_retired_while_stopped_releases_its_requests_and_ends() {
    let (fakes, slot, reporter) = (Fakes::new(), fakes::slot(), StatusReporter::default());
    fakes
        .images
        .fail(slot.definition.image.as_reference(), fakes::image_unknown());
    let driver = drive(&fakes, &slot, &reporter);
    reported(&reporter, &slot, ContainerState::Failed, "").await;
    // As after a stop: nothing is wrong, and a request may have come in the same moment.
    slot.enter_phase(Phase::Stopped);
    let _permit = slot.admission.admit(SOON).await.unwrap();
    let mut waiting = Box::pin(slot.ensure_ready(10 * SOON));
    assert!(futures_util::poll!(&mut waiting).is_pending());
    slot.retire();
    let released = tokio::time::timeout(SOON, waiting).await;
    let removed = matches!(released, Ok(Err(NotReady::Removed)));
    assert!(removed, "{released:?}");
    drop(_permit);
    let ended = tokio::time::timeout(SOON, driver).await;
    ended.expect("nothing is left to wait for").unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_first_start_is_retried_after_transient_failures_until_a_permanent_one() {
    let (fakes, slot, reporter) = (Fakes::new(), fakes::slot(), StatusReporter::default());
    let image = slot.definition.image.as_reference();
    fakes.images.fail(image, fakes::registry_away());
    let driver = drive(&fakes, &slot, &reporter);
    reported(&reporter, &slot, ContainerState::Starting, "HTTP 503").await;
    let again = async {
        while fakes.images.requests().len() < 4 {
            let state = reporter.get(slot.container_id).map(|status| status.state);
            assert_ne!(state, Some(ContainerState::Failed), "no verdict yet");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let tried = tokio::time::timeout(100 * SOON, again).await;
    tried.expect("nobody asked for it, and it is tried again");

    fakes.images.fail(image, fakes::image_unknown());
    reported(&reporter, &slot, ContainerState::Failed, "unknown image").await;
    let asked = fakes.images.requests();
    let proofs = asked.iter().filter(|(_, p)| *p == PullPolicy::Refresh);
    assert_eq!(proofs.count(), asked.len());
    tokio::time::sleep(100 * SOON).await;
    assert_eq!(fakes.images.requests().len(), asked.len());
    slot.retire();
    driver.await.unwrap();
}
