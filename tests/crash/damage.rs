//! One damaged sector anywhere in what a closed or crashed disk keeps: opening refuses, or finds what was there. It
//! never goes back to an earlier state, and never panics.

use sealdisk::ErrorKind;
use sealdisk::disk::Access;
use sealdisk::io::sim::{Mutant, SimDisk, SimRng, direct, plant};

use crate::check;
use crate::rig::Rig;
use crate::solo::{Solo, Step};

const STEPS: [Step; 12] = [
    Step::WriteFua(0),
    Step::WriteFua(1),
    Step::Toggle,
    Step::WriteFua(0),
    Step::ZeroFua(1),
    Step::Snapshot,
    Step::WriteFua(1),
    Step::Patch(2),
    Step::Flush,
    Step::ZeroFua(2),
    Step::WriteFua(2),
    Step::WriteFua(0),
];

/// The files whose damage must be noticed: page content has no checksum, and two copies of a key guard each other.
fn is_guarded(path: &str) -> bool {
    path.starts_with("disk/") && !path.starts_with("disk/layers/") && !path.ends_with(".next") && path != "disk/reserve"
}

/// Damages each guarded sector in turn, with `mutant` planted.
pub(crate) fn search(mutant: Option<Mutant>) -> Result<(), String> {
    plant(mutant);
    let found = direct(|| [false, true].into_iter().try_for_each(damage_each));
    plant(None);
    found
}

fn damage_each(closed: bool) -> Result<(), String> {
    let rig = Rig::sized(2, 4, Some(2));
    let mut solo = Solo::new(&rig, 1, true);
    for step in STEPS {
        solo.step(step)?.map_err(|error| format!("{step:?}: {error:?}"))?;
    }
    if closed {
        solo.disk.take().map_or(Ok(()), |disk| disk.close()).map_err(|error| format!("closing: {error:?}"))?;
    }
    let mut rng = SimRng::new(9);
    let image = solo.world.kill(&mut rng);
    for file in image.raw_files().into_iter().filter(|file| is_guarded(&file.path)) {
        for (sector, _) in file.sectors {
            let hurt = image.kill(&mut rng);
            hurt.damage(&file.path, sector);
            look(&rig, &hurt, &solo).map_err(|what| format!("sector {sector} of {} damaged: {what}", file.path))?;
        }
    }
    Ok(())
}

fn look(rig: &Rig, hurt: &SimDisk, solo: &Solo) -> Result<(), String> {
    let disk = match rig.open(hurt, solo.oracle.encryption(), Access::ReadWrite) {
        Ok(disk) => disk,
        Err(error) => {
            let told = matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported);
            return if told { Ok(()) } else { Err(format!("{error:?}")) };
        }
    };
    let found = check::content(hurt, &disk)?;
    solo.oracle.check_recovered(&found)
}
