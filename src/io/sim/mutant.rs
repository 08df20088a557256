//! Planted faults: ways in which the core could be wrong, switched on one at a time, so that the crash tests can show
//! that they find each of them. A spot in the core asks `mutant!(Name)`, which is `false` in a product build.

use std::cell::Cell;

/// A rule of the core, broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mutant {
    /// A change is answered before it is noted for the case that the process dies.
    AnsweredBeforeNoted,
    /// What a round is making durable does not count as not yet durable.
    BatchInFlightForgotten,
    /// Opening after a crash trusts the page cache.
    CacheNotDropped,
    /// A checkpoint is taken before the round whose border it stands for.
    CheckpointBeforeItsBorder,
    /// Old logs go before the new checkpoint's name is durable.
    CheckpointNameNotSynced,
    /// An opening looks anew at what is noted, though one before it may have dropped the page cache.
    ChecksMadeAnew,
    /// A clean close does not wait for a punch that began before.
    ClosedWhilePunching,
    /// Damage in the middle of a log counts as its torn end.
    DamageIsTheEnd,
    /// A round logs and answers without a sync of the layers.
    DataNotSynced,
    /// A checkpoint at the border of two logs forgets which pages are dead.
    DeadNotKept,
    /// Recovery keeps a clean checkpoint's dead pages dead that were written again since.
    DeadThoughWrittenAgain,
    /// Syncs of a directory run at once, and one that fails fails its caller alone.
    DirectoryNotGuarded,
    /// A layer is marked dirty after its presence was published.
    DirtyAfterPublished,
    /// A layer is marked dirty before, and not after, it was written.
    DirtyBeforeStored,
    /// A flush that finds nothing dirty does not wait for the round under way.
    EmptyFlushDoesNotWait,
    /// Writes go on in the layer that a snapshot sees before its deletion is durable.
    ErasedLineForgotten,
    /// A write that failed does not mark its layer dirty.
    FailedWriteLeavesClean,
    /// What a failed write left behind is not noted as dead.
    FailedWriteNotDead,
    /// A write that failed changes presence.
    FailedWritePublished,
    /// A failed sync fails its caller and nothing later.
    FailureForgotten,
    /// A write with FUA is answered before its layer is synced.
    FuaNotSynced,
    /// A write with FUA passes by the committer though its pages are not durable there.
    FuaPastThePending,
    /// A change lets go of the gate before it is published.
    GateNotHeld,
    /// A layer is named before its key is durable.
    KeyNotSynced,
    /// The id of a removed layer is given out again.
    LayerIdUsedAgain,
    /// A round does not wait for notes that are being written where those of the next batch will lie.
    LateNotesNotAwaited,
    /// A layer is named before its file's name is durable.
    LayerNameNotSynced,
    /// An empty layer goes before what emptied it is durable.
    LayerRemovedEarly,
    /// Writes go on in the layer that a new snapshot sees.
    LineKeepsTop,
    /// A snapshot does not keep the base limit of its time.
    LineWithoutItsLimit,
    /// What a higher layer covers is dead though a snapshot sees it.
    LinesNotLookedAt,
    /// A clean close keeps no log for the next opening.
    LogNotKept,
    /// Batches are written to a log whose name is not durable.
    LogNameNotSynced,
    /// A round answers before its batch is durable.
    LogNotSynced,
    /// A log is written over an old one, and its batches are not told from old ones.
    LogRecycled,
    /// Opening after a kill does not take over what was answered since the last batch.
    NotesForgotten,
    /// Notes are believed after a power cut.
    NotesOfAnotherBoot,
    /// Notes are believed after the device was reset.
    NotesOfAnotherMount,
    /// Notes are believed without a look at what is stored.
    NotesUnchecked,
    /// A round syncs one of its dirty layers.
    OneLayerSynced,
    /// Opening after a crash syncs nothing.
    OpenedUnsynced,
    /// Pages are punched before the record of a snapshot that lets them go, or sees them, is durable.
    PendingLineNotLookedAt,
    /// Pages are punched while the durable state still needs them.
    PendingNotLookedAt,
    /// Where an encrypted layer cannot be made, a plain one is.
    PlainWhereEncryptedFails,
    /// A write overwrites what the layer holds before it is known that there is space for the rest.
    OverwritesFirst,
    /// Presence is published before the page is stored.
    PublishedBeforeStored,
    /// A punched layer is not marked dirty.
    PunchLeavesClean,
    /// What is punched is not looked at again under its pages' lock.
    PunchNotLookedAtAgain,
    /// Reads take no range lock.
    ReadWithoutLock,
    /// No space is held ready for the next checkpoint.
    ReserveNotMade,
    /// A rollback leaves all but one of the layers above the line.
    RollbackKeepsLayer,
    /// A rollback lets an emptied layer take writes again.
    RolledBackToUnsealed,
    /// A resize to the size that the disk has by one under way does not wait for that to be durable.
    SameSizeNotFlushed,
    /// The settings are replaced without a sync of their directory.
    SettingsNameNotSynced,
    /// A short write counts as a whole one.
    ShortIsWhole,
    /// A shrink neither cuts the base limit nor notes as zero what it cuts off.
    ShrinkKeepsBase,
    /// disk.toml is replaced, and nothing keeps the space of the one before.
    SpareNotKept,
    /// Re-encryption goes on after encryption was turned off.
    SweptAfterSwitch,
    /// Re-encryption takes no range lock.
    SweptWithoutLock,
    /// Two syncs of one file may run at once.
    SyncsNotSerialised,
    /// A file is renamed into its place before its content is durable.
    TemporaryNotSynced,
    /// Upkeep punches what no record names.
    UnaccountedPunched,
    /// A change waits for a round while it holds its range lock.
    WaitsUnderRangeLock,
    /// Writes take no range lock.
    WriteWithoutLock,

    // Of the account.
    /// A copy counts as whole before it is durable.
    CopyNotFlushed,
    /// A deletion is answered before it is durable.
    DeletionNotSynced,
    /// A new disk is answered before its name is durable.
    DiskNameNotSynced,
    /// Names of disks that a killed process changed are taken as durable.
    DiskNamesNotSettled,
    /// After a sync of the folder of disks failed, the next change goes on.
    DoubtForgotten,
    /// Folders that a killed process made or renamed are taken as durable.
    FolderNotSettled,
    /// Names of many disks that a killed process changed are taken as durable.
    FileSystemNotSettled,
    /// A disk is removed and its wrapped data keys are not overwritten.
    KeysLeftLying,
    /// What interrupted verbs left in the folder of disks stays.
    LeftoversStay,
    /// The lock file is emptied at an end in order, and without space for a note nobody can hold the account.
    LockEmptied,
    /// A disk is made under its own name.
    MadeInSight,
    /// Of a hidden disk only what the newest of the clones reads is kept.
    OnlyNewestKept,
    /// The snapshot that was drawn for a clone stays though there is no such clone.
    OrphanStays,
    /// What was kept for a clone goes before its detachment is durable.
    ParentGoneBeforeDetached,
    /// A disk that goes over to another account key goes on writing under the data key that it has.
    RekeyKeepsTop,
    /// What a disk consists of is removed before its deletion is durable.
    RemovedBeforeItsName,
    /// account.toml is replaced without a sync of its directory.
    ReplacedNotSynced,
    /// A disk is removed for good though a clone reads from it.
    SourceNotKept,
    /// The encryption setting is changed and not stored.
    SwitchNotStored,
    /// What nothing reads of a hidden disk stays after a restart.
    TrimForgotten,
    /// A disk loses what its clones do not read before it is durably deleted.
    TrimmedInSight,
    /// A disk that cannot be read is taken for no clone of anything.
    UnknownIsNoClone,
}

impl Mutant {
    /// Those in the account, above its disks.
    pub const ACCOUNT: &[Self] = &[
        Self::CopyNotFlushed,
        Self::DeletionNotSynced,
        Self::DiskNameNotSynced,
        Self::DiskNamesNotSettled,
        Self::DoubtForgotten,
        Self::FileSystemNotSettled,
        Self::FolderNotSettled,
        Self::KeysLeftLying,
        Self::LeftoversStay,
        Self::LockEmptied,
        Self::MadeInSight,
        Self::OnlyNewestKept,
        Self::OrphanStays,
        Self::ParentGoneBeforeDetached,
        Self::RekeyKeepsTop,
        Self::RemovedBeforeItsName,
        Self::ReplacedNotSynced,
        Self::SourceNotKept,
        Self::SwitchNotStored,
        Self::TrimForgotten,
        Self::TrimmedInSight,
        Self::UnknownIsNoClone,
    ];

    /// Those in the core of a disk.
    pub const CORE: &[Self] = &[
        Self::AnsweredBeforeNoted,
        Self::BatchInFlightForgotten,
        Self::CacheNotDropped,
        Self::CheckpointBeforeItsBorder,
        Self::CheckpointNameNotSynced,
        Self::ChecksMadeAnew,
        Self::ClosedWhilePunching,
        Self::DamageIsTheEnd,
        Self::DataNotSynced,
        Self::DeadNotKept,
        Self::DeadThoughWrittenAgain,
        Self::DirectoryNotGuarded,
        Self::DirtyAfterPublished,
        Self::DirtyBeforeStored,
        Self::EmptyFlushDoesNotWait,
        Self::ErasedLineForgotten,
        Self::FailedWriteLeavesClean,
        Self::FailedWriteNotDead,
        Self::FailedWritePublished,
        Self::FailureForgotten,
        Self::FuaNotSynced,
        Self::FuaPastThePending,
        Self::GateNotHeld,
        Self::KeyNotSynced,
        Self::LateNotesNotAwaited,
        Self::LayerIdUsedAgain,
        Self::LayerNameNotSynced,
        Self::LayerRemovedEarly,
        Self::LineKeepsTop,
        Self::LineWithoutItsLimit,
        Self::LinesNotLookedAt,
        Self::LogNameNotSynced,
        Self::LogNotKept,
        Self::LogNotSynced,
        Self::LogRecycled,
        Self::NotesForgotten,
        Self::NotesOfAnotherBoot,
        Self::NotesOfAnotherMount,
        Self::NotesUnchecked,
        Self::OneLayerSynced,
        Self::OpenedUnsynced,
        Self::OverwritesFirst,
        Self::PendingLineNotLookedAt,
        Self::PendingNotLookedAt,
        Self::PlainWhereEncryptedFails,
        Self::PublishedBeforeStored,
        Self::PunchLeavesClean,
        Self::PunchNotLookedAtAgain,
        Self::ReadWithoutLock,
        Self::ReserveNotMade,
        Self::RollbackKeepsLayer,
        Self::RolledBackToUnsealed,
        Self::SameSizeNotFlushed,
        Self::SettingsNameNotSynced,
        Self::ShortIsWhole,
        Self::ShrinkKeepsBase,
        Self::SpareNotKept,
        Self::SweptAfterSwitch,
        Self::SweptWithoutLock,
        Self::SyncsNotSerialised,
        Self::TemporaryNotSynced,
        Self::UnaccountedPunched,
        Self::WaitsUnderRangeLock,
        Self::WriteWithoutLock,
    ];
}

thread_local! {
    static PLANTED: Cell<Option<Mutant>> = const { Cell::new(None) };
}

/// Plants a mutant for this thread, or takes it away.
pub fn plant(mutant: Option<Mutant>) {
    PLANTED.set(mutant);
}

/// Whether this one is planted.
#[must_use]
pub fn mutant(mutant: Mutant) -> bool {
    PLANTED.get() == Some(mutant)
}
