//! Removing layers that hold nothing any more, and files that no record names: the table entry goes durably before the
//! key, the key before the file.

use super::settings::DiskSettings;
use crate::disk::core::Core;
use crate::disk::upkeep::UpkeepGuard;
use crate::{Error, Result};

impl Core {
    /// Removes a layer that holds nothing and never will again. The table entry goes durably before the key, the key
    /// before the file.
    pub(crate) fn remove_empty(&self, _upkeep: &UpkeepGuard<'_>) -> Result<bool> {
        let removable = || {
            let top = self.stack.gate().top().map(|top| top.id);
            self.stack.state().removable(top)
        };
        if removable().is_none() {
            return Ok(false);
        }
        // Only what holds this lock changes the top, and only the top comes to hold anything.
        let mut table = self.table.lock();
        let Some(id) = removable() else { return Ok(false) };
        let Some(index) = table.settings.layers.iter().position(|layer| layer.id == id) else { return Ok(false) };
        let record = table.settings.layers.remove(index);
        if let Err(error) = self.store_settings(&mut table) {
            table.settings.layers.insert(index, record);
            return Err(error);
        }
        self.stack.state_mut().entries.retain(|entry| entry.layer.id != id);
        table.slots.erase(id)?;
        let name = DiskSettings::layer_file(id, record.kind);
        self.layers_dir.remove(&name).and_then(|()| self.layers_dir.sync()).map_err(|error| {
            Error::io("an empty layer cannot be removed", error).at_path(self.layers_dir.path().join(name))
        })?;
        Ok(true)
    }

    /// Destroys what the settings do not name: the key goes durably before the file.
    pub(crate) fn remove_strays(&self) -> Result<()> {
        let mut table = self.table.lock();
        let names: Vec<_> = self.stack.state().strays.iter().map(|stray| (stray.layer, stray.name.clone())).collect();
        for (layer, name) in names {
            table.slots.erase(layer)?;
            self.layers_dir.remove(&name).and_then(|()| self.layers_dir.sync()).map_err(|error| {
                let path = self.layers_dir.path().join(&name);
                Error::io("a file that no record names cannot be removed", error).at_path(path)
            })?;
            self.stack.state_mut().strays.retain(|stray| stray.name != name);
        }
        Ok(())
    }
}
