//! A flush that is answered at once, without a round: it says what a flush says.

use std::sync::Arc;

use sealdisk::PAGE;
use sealdisk::disk::{Access, Durability};
use sealdisk::io::sim::{Mutant, SimRng, direct};

use crate::campaign::{Until, search};
use crate::check;
use crate::rig::Rig;
use crate::solo::{Solo, Step};

/// A page is written while another client flushes. Where the writer's own flush is answered at once, the page is there
/// after a power cut.
fn beside_another_flush(seed: u64) -> Result<(), String> {
    let failed = |what: &'static str| move |error| format!("{what}: {error:?}");
    let rig = Rig::sized(seed, 2, None);
    let (disk, world) = direct(|| {
        let mut solo = Solo::new(&rig, seed, true);
        for step in [Step::Write(0), Step::Flush] {
            solo.step(step)?.map_err(failed("preparing"))?;
        }
        Ok::<_, String>((Arc::new(solo.disk.take().expect("it is open")), solo.world))
    })?;
    if !disk.try_flush().map_err(failed("flushing"))? {
        return Err("a flush of a disk that is flushed waits".to_owned());
    }
    disk.write(0, &[7; PAGE], Durability::Volatile).map_err(failed("writing"))?;
    let other = Arc::clone(&disk);
    let flusher = shuttle::thread::spawn(move || other.flush());
    let at_once = disk.try_flush().map_err(failed("flushing"))?;
    let mut rng = SimRng::new(seed);
    let kept = direct(|| {
        (0..if at_once { 8 } else { 0 }).try_for_each(|_| {
            let image = check::power_cut(&world, &mut rng);
            let mut page = [0; PAGE];
            let found = rig.open(&image, true, Access::ReadWrite).map_err(failed("recovering"))?;
            found.read(0, &mut page).map_err(failed("recovering"))?;
            if page == [7; PAGE] { Ok(()) } else { Err("a flushed page is not there".to_owned()) }
        })
    });
    flusher.join().expect("a panic ends the execution").map_err(failed("flushing"))?;
    kept
}

#[test]
fn what_is_answered_at_once_is_durable() {
    assert_eq!(search(0, Until::Seeds(1000), None, beside_another_flush).0, None);
    let found = search(0, Until::Seeds(1000), Some(Mutant::EmptyFlushDoesNotWait), beside_another_flush).0;
    assert!(found.is_some(), "a flush that does not look at the round under way is not found");
}
