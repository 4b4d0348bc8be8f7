//! The right to use a loaded value.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::lazy::machine::Inner;

/// A loaded value in use. While one lives, the value is not unloaded.
pub struct Lease<T: Send + Sync + 'static> {
    /// `Some` until dropped.
    value: Option<Arc<T>>,
    owner: Arc<Inner<T>>,
    purpose: Purpose,
}

/// What a lease is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Work: the value is idle from its end on.
    Work,
    /// A look at the value, which does not put off its unload.
    Look,
}

impl<T: Send + Sync + 'static> Lease<T> {
    /// The caller has counted the lease already.
    pub(super) fn counted(value: Arc<T>, owner: Arc<Inner<T>>, purpose: Purpose) -> Self {
        Self { value: Some(value), owner, purpose }
    }
}

impl<T: Send + Sync + 'static> Deref for Lease<T> {
    type Target = T;

    fn deref(&self) -> &T {
        #[expect(clippy::expect_used, reason = "only drop takes the value out")]
        self.value.as_deref().expect("a live lease holds its value")
    }
}

impl<T: Send + Sync + 'static> Clone for Lease<T> {
    fn clone(&self) -> Self {
        self.owner.count_lease();
        Self { value: self.value.clone(), owner: Arc::clone(&self.owner), purpose: self.purpose }
    }
}

impl<T: Send + Sync + 'static> Drop for Lease<T> {
    fn drop(&mut self) {
        // First the reference, then the count: an unload that follows frees the value for good.
        self.value = None;
        Inner::release(&self.owner, self.purpose);
    }
}

impl<T: Send + Sync + fmt::Debug + 'static> fmt::Debug for Lease<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lease").field(&self.value).finish()
    }
}
