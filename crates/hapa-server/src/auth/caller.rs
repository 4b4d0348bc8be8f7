//! On whose behalf a request is answered.

use std::sync::Arc;

use super::file::KeyRecord;
use crate::limits::Limits;

/// Who asks: a key that was found good for the route.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) record: KeyRecord,
    pub(crate) limits: Arc<Limits>,
}

impl Caller {
    /// Keeps answers and prompts of tenants apart, in the response cache and in the engine's, so that no answer's
    /// speed tells what another tenant asked.
    pub(crate) fn namespace(&self) -> &str {
        &self.record.tenant
    }
}
