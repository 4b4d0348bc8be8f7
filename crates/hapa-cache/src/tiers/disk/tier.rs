//! The disk behind the async trait: its work runs on threads that may block.

use super::super::record::Record;
use super::super::tier::{Tier, TierFuture, TierStats};
use super::DiskTier;
use crate::{CacheError, CacheKey};

impl Tier for DiskTier {
    fn name(&self) -> &'static str {
        "disk"
    }

    fn get<'a>(&'a self, key: &'a CacheKey) -> TierFuture<'a, Option<Record>> {
        if self.lacks(key) {
            return Box::pin(std::future::ready(Ok(None)));
        }
        let key = *key;
        self.blocking(move |disk| disk.get(&key))
    }

    fn get_many<'a>(&'a self, keys: &'a [CacheKey]) -> TierFuture<'a, Vec<Option<Record>>> {
        let keys = keys.to_vec();
        self.blocking(move |disk| keys.iter().map(|key| disk.get(key)).collect())
    }

    fn put<'a>(&'a self, records: &'a [(CacheKey, Record)]) -> TierFuture<'a, ()> {
        let records = records.to_vec();
        self.blocking(move |disk| disk.put(&records))
    }

    fn remove<'a>(&'a self, keys: &'a [CacheKey]) -> TierFuture<'a, ()> {
        let keys = keys.to_vec();
        self.blocking(move |disk| disk.remove(&keys).map(drop))
    }

    fn clear(&self) -> TierFuture<'_, u64> {
        self.blocking(|disk| disk.clear())
    }

    fn newest(&self, limit: usize) -> TierFuture<'_, Vec<(CacheKey, Record)>> {
        self.blocking(move |disk| disk.newest(limit))
    }

    fn stats(&self) -> TierStats {
        DiskTier::stats(self)
    }
}

impl DiskTier {
    fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, CacheError> + Send + 'static,
    ) -> TierFuture<'static, T> {
        let disk = self.clone();
        Box::pin(async move {
            let handle = disk.clone();
            let task = tokio::task::spawn_blocking(move || work(&handle));
            task.await.map_err(|error| disk.error("using", error.to_string()))?
        })
    }
}
