//! The verbs of the owner that change disk.toml: another name, another key, no base any more.

use std::sync::Arc;

use super::settings::DiskSettings;
use crate::Result;
use crate::base::{BaseImage, BaseRecord};
use crate::disk::commit::log::Op;
use crate::disk::core::Core;

impl Core {
    /// Freezes every layer there is: the next change is stored under a fresh key. Durable when this returns.
    pub(crate) fn rotate_key(&self) -> Result<()> {
        self.check_writable()?;
        self.check_room()?;
        let mut table = self.table.lock();
        table.settings().check_layers(self.dir.path())?;
        table.freeze_layers();
        self.store_settings(&mut table)?;
        self.stack.gate_exclusive(&table).set_top(None);
        Ok(())
    }

    /// Lets go of a base, or a parent, that nothing reads any more, the live disk or a snapshot. `false`: something
    /// does.
    pub(crate) fn detach_base(&self) -> Result<bool> {
        self.check_writable()?;
        {
            let table = self.arm_and_hold()?;
            let gate = self.stack.gate_exclusive(&table);
            gate.check_open()?;
            if self.usage().base > 0 || self.stack.state().snapshots.iter().any(|snapshot| snapshot.base_limit > 0) {
                return Ok(false);
            }
            let mut state = self.stack.state_mut();
            state.base_limit = 0;
            let size = state.size;
            state.pending.ops.push(Op::Resize { size, base_limit: 0 });
        }
        // First the limit, then the record: a crash between them leaves a base that nothing reads.
        self.flush()?;
        self.change_settings(|settings| (settings.base, settings.parent) = (None, None))?;
        // Whoever reads has looked up its pages under their lock, and none of them was the base's any more.
        *self.base.write() = None;
        Ok(true)
    }

    /// Goes over to another file with the same content. Who reads meanwhile ends with the one before.
    pub(crate) fn set_base(&self, record: BaseRecord, image: Arc<dyn BaseImage>) -> Result<()> {
        self.change_settings(|settings| settings.base = Some(record))?;
        *self.base.write() = Some(image);
        Ok(())
    }

    /// Gives the disk another name; durable when this returns. That it is unique is the caller's business.
    pub(crate) fn rename(&self, name: &str) -> Result<()> {
        self.change_settings(|settings| name.clone_into(&mut settings.name))
    }

    /// Changes the settings as one replacement of their file.
    pub(crate) fn change_settings(&self, change: impl FnOnce(&mut DiskSettings)) -> Result<()> {
        self.check_writable()?;
        let mut table = self.table.lock();
        let before = table.settings.clone();
        change(&mut table.settings);
        self.store_settings(&mut table).inspect_err(|_| table.settings = before)
    }
}
