//! `init`: a new account.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use uuid::Uuid;

use super::context::{Context, Outcome};
use super::kek_options::KekOptions;
use super::key_place::KeyPlace;
use super::new_key::NewKey;
use super::{ACCOUNT_VARIABLE, DEFAULT_ACCOUNT, quickstart};
use crate::Result;
use crate::account::acts::{self, Asker};
use crate::account::audit_log::AuditLog;
use crate::account::make::NewAccountDir;
use crate::account::report::Switch;
use crate::account::settings::Settings;
use crate::io::system;
use crate::text;

/// Make an account: a directory for disks and their wrapped keys
///
/// Without a key option a new key-encryption key is made in ~/.config/sealdisk: apart from the account directory, but
/// in the open, and most often on the same disk. Whoever has the account directory but not this key can read nothing
/// that is encrypted; whoever loses it cannot either.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sealdisk init
  sealdisk init --passphrase
  sealdisk --account /srv/disks init --key-file /etc/sealdisk/kek --encryption on")]
pub(super) struct Init {
    /// How writes are stored from the beginning
    #[arg(long, value_enum, default_value = "on")]
    encryption: OnOff,
    #[command(flatten)]
    key: KekOptions,
}

/// The two positions of the switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum OnOff {
    On,
    Off,
}

impl From<OnOff> for Switch {
    fn from(on_off: OnOff) -> Self {
        Switch::from(on_off == OnOff::On)
    }
}

/// What `init` made.
#[derive(Debug, Serialize)]
pub(super) struct Made {
    pub(super) account: PathBuf,
    pub(super) uuid: Uuid,
    pub(super) encryption: Switch,
    pub(super) key_source: String,
    pub(super) key_place: KeyPlace,
}

impl Init {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let made = make(context, &self.key, self.encryption.into())?;
        let text = format!(
            "made an account in {}\nencryption  {}\nkey         {}\n\n{}\n\nnext: {} create disk1 --size 10G",
            text::path(&made.account),
            made.encryption.name(),
            text::line(&made.key_source),
            made.key_place,
            command(&made.account),
        );
        context.show(&made, text)
    }
}

/// How a shell in this folder calls the program for this account.
fn command(account: &Path) -> String {
    if *account == *Path::new(DEFAULT_ACCOUNT) || std::env::var_os(ACCOUNT_VARIABLE).is_some_and(|set| account == set) {
        return "sealdisk".to_owned();
    }
    format!("sealdisk --account {}", quickstart::quoted(&text::path(account)))
}

/// Makes the account of `context`; nothing is left of it when this fails.
pub(super) fn make(context: &Context, key: &KekOptions, encryption: Switch) -> Result<Made> {
    let place = NewAccountDir::prepare(&context.account)?;
    let log = context.audit_log.as_deref().map(AuditLog::at);
    if let Some(log) = &log {
        log.open_as(place.owner())?;
        log.ready()?;
    }
    let uuid = system::uuid()?;
    let new = NewKey::first(key, place.owner(), uuid, &context.account)?;
    let (settings, ring) =
        place.owner().act(|| Settings::create(place.dir(), uuid, &new.kek, new.record.clone(), encryption.is_on()))?;
    place.keep()?;
    context.approve(uuid, &new.record);
    if new.record.lies_in(&context.account) {
        context.note("warning: the key lies beside the data: whoever copies the account has both");
    }
    new.keep();
    log.map_or(Ok(()), |log| acts::tell_made(&settings, &ring, &log, Asker::this_process()))?;
    let key_source = settings.kek_source().to_string();
    let key_place = KeyPlace::of(settings.kek_source(), &context.account);
    Ok(Made { account: context.account.clone(), uuid, encryption, key_source, key_place })
}
