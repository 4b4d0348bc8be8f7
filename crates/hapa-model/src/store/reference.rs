//! What a user may write where a model is asked for, and what it means.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use crate::catalog::{CatalogModel, catalog, find};
use crate::error::ModelError;
use crate::text::edit_distance;

/// The forms that [`ModelRef`] accepts, for help texts and errors.
pub const ACCEPTED_FORMS: &str = "a catalogue name, a path to a .gguf file or to a folder with config.json, or a hub \
                                  repository as owner/name, owner/name:QUANT or owner/name/file.gguf, each with \
                                  @revision if wanted";

/// A model as a user names it.
///
/// ```
/// use hapa_model::{HubFile, ModelRef};
///
/// let model: ModelRef = "bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M@main".parse()?;
/// assert!(matches!(model, ModelRef::Hub { file: HubFile::Quant(_), .. }));
/// assert!(matches!("qwen2.5-coder-0.5b".parse()?, ModelRef::Catalog(_)));
/// assert!(matches!("./weights/mine.gguf".parse()?, ModelRef::Path(_)));
/// # Ok::<(), hapa_model::ModelError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelRef {
    /// A model that HAPA knows by name, with a pinned digest.
    Catalog(Arc<CatalogModel>),
    /// A GGUF file, or a folder with `config.json`, `tokenizer.json` and safetensors weights.
    Path(PathBuf),
    /// A repository of the Hugging Face hub.
    Hub {
        /// `owner/name`.
        repo: String,
        /// Which of its files.
        file: HubFile,
        /// Branch, tag or commit.
        revision: String,
    },
}

/// Which file of a hub repository is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HubFile {
    /// The repository's best GGUF file, or its safetensors weights when it has no GGUF file.
    Auto,
    /// This file, by its path in the repository.
    Named(String),
    /// The GGUF file of this quantisation (`Q4_K_M`); capitals do not matter.
    Quant(String),
}

/// The revision of a repository when none is given.
pub(crate) const MAIN: &str = "main";

impl FromStr for ModelRef {
    type Err = ModelError;

    /// Reads any of the accepted forms. Looks at the disk only to tell a relative path from a hub repository.
    ///
    /// # Errors
    /// [`ModelError::UnknownModel`] with the nearest catalogue names and the accepted forms.
    fn from_str(text: &str) -> Result<Self, ModelError> {
        let text = text.trim();
        if let Some(model) = find(text) {
            return Ok(Self::Catalog(model));
        }
        if text.is_empty() {
            return Err(unknown(text));
        }
        let hub_text = [
            "https://huggingface.co/",
            "http://huggingface.co/",
            "huggingface.co/",
            "hf.co/",
            "hf:",
        ]
        .iter()
        .find_map(|prefix| text.strip_prefix(prefix));
        if let Some(rest) = hub_text {
            return parse_url(rest).or_else(|| parse_hub(rest)).ok_or_else(|| unknown(text));
        }
        let path = Path::new(text);
        if looks_like_a_path(text) || is_a_model_on_disk(path) {
            return Ok(Self::Path(path.to_owned()));
        }
        if let Some(hub) = parse_hub(text) {
            return Ok(hub);
        }
        if text.contains(['/', '\\']) || has_gguf_name(text) {
            return Ok(Self::Path(path.to_owned()));
        }
        Err(unknown(text))
    }
}

impl ModelRef {
    /// The name by which requests and metrics know the model: as it is written, but of a path only the file's or folder's name
    /// without its ending. Folders are nobody's business.
    pub fn short_name(&self) -> String {
        match self {
            Self::Path(path) => path
                .file_stem()
                .map_or_else(|| "model".to_owned(), |stem| stem.to_string_lossy().into_owned()),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Catalog(model) => f.write_str(&model.id),
            Self::Path(path) => path.display().fmt(f),
            Self::Hub { repo, file, revision } => {
                f.write_str(repo)?;
                match file {
                    HubFile::Auto => {}
                    HubFile::Named(name) => write!(f, "/{name}")?,
                    HubFile::Quant(quant) => write!(f, ":{quant}")?,
                }
                if revision != MAIN {
                    write!(f, "@{revision}")?;
                }
                Ok(())
            }
        }
    }
}

impl Default for ModelRef {
    /// The catalogue's default model.
    fn default() -> Self {
        Self::Catalog(Arc::clone(&catalog()[0]))
    }
}

fn looks_like_a_path(text: &str) -> bool {
    let drive = text.as_bytes().get(1) == Some(&b':') && text.as_bytes()[0].is_ascii_alphabetic();
    ["/", "./", "../", "~", "\\", ".\\"].iter().any(|start| text.starts_with(start))
        || matches!(text, "." | "..")
        || (drive && text[2..].starts_with(['\\', '/']))
}

fn is_a_model_on_disk(path: &Path) -> bool {
    path.is_file() || path.join("config.json").is_file()
}

fn has_gguf_name(text: &str) -> bool {
    Path::new(text).extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"))
}

/// `owner/name[/dir/file.gguf][:quant][@revision]`.
fn parse_hub(text: &str) -> Option<ModelRef> {
    let (rest, revision) = match text.split_once('@') {
        Some((rest, revision)) => (rest, revision),
        None => (text, MAIN),
    };
    let (rest, quant) = match rest.split_once(':') {
        Some((rest, quant)) => (rest, Some(quant)),
        None => (rest, None),
    };
    let mut parts = rest.splitn(3, '/');
    let (owner, name, file) = (parts.next()?, parts.next()?, parts.next());
    // `folder/file.gguf` that is not there is a path that does not exist, not a repository.
    if !is_hub_name(owner) || !is_hub_name(name) || (file.is_none() && has_gguf_name(name)) {
        return None;
    }
    let revision_fits = !revision.is_empty()
        && revision.split('/').all(is_file_name)
        && revision.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b));
    let file = match (file, quant) {
        (None, None) => HubFile::Auto,
        (None, Some(quant)) if is_hub_name(quant) => HubFile::Quant(quant.to_owned()),
        (Some(file), None) if has_gguf_name(file) && file.split('/').all(is_file_name) => {
            HubFile::Named(file.to_owned())
        }
        _ => return None,
    };
    let repo = format!("{owner}/{name}");
    revision_fits.then(|| ModelRef::Hub { repo, file, revision: revision.to_owned() })
}

/// The address of a repository or file as a browser shows it: `owner/name[/(blob|resolve|tree)/revision[/file]]`.
fn parse_url(rest: &str) -> Option<ModelRef> {
    let rest = rest.split(['?', '#']).next()?.trim_end_matches('/');
    let mut parts = rest.splitn(5, '/');
    let (owner, name, kind) = (parts.next()?, parts.next()?, parts.next()?);
    let revision = parts.next()?;
    if !matches!(kind, "blob" | "resolve" | "tree") {
        return None;
    }
    match parts.next() {
        Some(file) => parse_hub(&format!("{owner}/{name}/{file}@{revision}")),
        None => parse_hub(&format!("{owner}/{name}@{revision}")),
    }
}

fn is_hub_name(name: &str) -> bool {
    is_file_name(name)
        && name.len() <= 96
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// No part of a hub path may lead out of the folder it is stored in.
pub(crate) fn is_file_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['\\', ':', '\0'])
}

fn unknown(text: &str) -> ModelError {
    let lower = text.to_ascii_lowercase();
    let mut near: Vec<(usize, &str)> = catalog()
        .iter()
        .map(|model| (edit_distance(&lower, &model.id), model.id.as_str()))
        .filter(|&(distance, id)| {
            distance <= 3.max(id.len() / 3) || (lower.len() >= 3 && id.contains(&lower))
        })
        .collect();
    near.sort_unstable();
    let names = |ids: Vec<&str>| ids.join(", ");
    let hint = if near.is_empty() {
        format!("the catalogue has {}", names(catalog().iter().map(|m| m.id.as_str()).collect()))
    } else {
        format!("did you mean {}?", names(near.into_iter().map(|(_, id)| id).collect()))
    };
    ModelError::UnknownModel {
        name: text.to_owned(),
        help: format!("{hint} Accepted: {ACCEPTED_FORMS}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> ModelRef {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    fn hub(repo: &str, file: HubFile, revision: &str) -> ModelRef {
        ModelRef::Hub { repo: repo.to_owned(), file, revision: revision.to_owned() }
    }

    #[test]
    fn every_accepted_form() {
        let named = |s: &str| HubFile::Named(s.to_owned());
        let quant = |s: &str| HubFile::Quant(s.to_owned());
        let cases = [
            ("a/b", hub("a/b", HubFile::Auto, "main")),
            ("a/b@v1.0", hub("a/b", HubFile::Auto, "v1.0")),
            ("a/b@refs/pr/3", hub("a/b", HubFile::Auto, "refs/pr/3")),
            ("a/b:Q8_0", hub("a/b", quant("Q8_0"), "main")),
            ("hf.co/a/b:q4_k_m@x", hub("a/b", quant("q4_k_m"), "x")),
            ("a/b/c.gguf", hub("a/b", named("c.gguf"), "main")),
            ("a/b/dir/c.gguf@0123abc", hub("a/b", named("dir/c.gguf"), "0123abc")),
            (
                "https://huggingface.co/a/b/blob/main/dir/c.gguf",
                hub("a/b", named("dir/c.gguf"), "main"),
            ),
            (
                "https://huggingface.co/a/b/resolve/dev/c.gguf?download=true",
                hub("a/b", named("c.gguf"), "dev"),
            ),
            ("https://huggingface.co/a/b/tree/dev", hub("a/b", HubFile::Auto, "dev")),
            ("https://huggingface.co/a/b", hub("a/b", HubFile::Auto, "main")),
            ("./x.gguf", ModelRef::Path("./x.gguf".into())),
            ("folder/x.gguf", ModelRef::Path("folder/x.gguf".into())),
            ("x.GGUF", ModelRef::Path("x.GGUF".into())),
            ("/a/b", ModelRef::Path("/a/b".into())),
            ("C:\\models\\x", ModelRef::Path("C:\\models\\x".into())),
            (" smollm2-135m ", ModelRef::Catalog(find("smollm2-135m").expect("id"))),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_on_disk_is_a_path() {
        let dir = tempfile::tempdir().expect("dir");
        std::fs::write(dir.path().join("config.json"), "{}").expect("write");
        let text = dir.path().to_str().expect("utf-8");
        assert_eq!(parse(text), ModelRef::Path(dir.path().to_owned()));
    }

    #[test]
    fn nothing_leads_out_of_the_store() {
        for text in
            ["a/b/../../../etc/x.gguf", "a/..", "../a", "a/b@../..", "a/b@..", "hf:a/b/../c.gguf"]
        {
            if let Ok(ModelRef::Hub { .. }) = text.parse() {
                panic!("{text} was taken for a hub repository");
            }
        }
    }

    #[test]
    fn unknown_names_get_the_nearest_ones() {
        let help = |text: &str| match text.parse::<ModelRef>() {
            Err(ModelError::UnknownModel { name, help }) => {
                assert_eq!(name, text);
                help
            }
            other => panic!("{other:?}"),
        };
        assert!(help("qwen2.5-coder-0.5").starts_with("did you mean qwen2.5-coder-0.5b?"));
        assert!(help("smolm2-135").starts_with("did you mean smollm2-135m?"));
        assert!(help("coder").starts_with("did you mean qwen2.5-coder-0.5b?"));
        let other = help("gpt-17");
        assert!(other.contains("qwen2.5-coder-0.5b, smollm2-135m"), "{other}");
        assert!(other.contains("owner/name:QUANT"), "{other}");
        assert!(help("").contains("Accepted"));
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_hub_references_round_trip(text in "[a-zA-Z0-9/:@._~\\\\-]{0,40}") {
            if let Ok(model @ ModelRef::Hub { .. }) = text.parse::<ModelRef>() {
                let shown = model.to_string();
                prop_assert_eq!(shown.parse::<ModelRef>().ok(), Some(model), "{}", shown);
            }
        }

        #[test]
        fn any_text_is_an_answer_or_an_error(text in "\\PC{0,60}") {
            let _ = text.parse::<ModelRef>();
        }
    }
}
