//! What the targets of on-disk formats share, and they themselves.

#[path = "account_settings.rs"]
pub(crate) mod account_settings;
#[path = "audit_log.rs"]
pub(crate) mod audit_log;
#[path = "disk_files.rs"]
pub(crate) mod disk_files;
#[path = "disk_records.rs"]
pub(crate) mod disk_records;
#[path = "edit.rs"]
pub(crate) mod edit;
#[path = "examine.rs"]
pub(crate) mod examine;
#[path = "golden.rs"]
pub(crate) mod golden;
#[path = "look.rs"]
pub(crate) mod look;
#[path = "memory_dir.rs"]
pub(crate) mod memory_dir;
#[path = "seal.rs"]
pub(crate) mod seal;
