//! Which files of a repository or folder are the model.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{ModelError, Result};
use crate::store::reference::HubFile;

/// Files that a safetensors model cannot do without, besides its weights.
const REQUIRED: [&str; 2] = ["config.json", "tokenizer.json"];
/// Files that are taken along when a repository has them.
const OPTIONAL: [&str; 3] =
    ["tokenizer_config.json", "generation_config.json", "chat_template.jinja"];
/// Weights in one file.
const SINGLE: &str = "model.safetensors";
/// The list of weights in several files.
const INDEX: &str = "model.safetensors.index.json";

/// Quantisations in the order in which a repository's file is chosen when none is named: the best that still decodes
/// fast on a CPU first.
const PREFERRED: [&str; 14] = [
    "Q4_K_M", "Q4_K_S", "Q4_1", "Q4_0", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0", "Q6_K", "Q8_0",
    "Q3_K_M", "BF16", "F16", "F32",
];

/// What was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selection {
    /// One GGUF file.
    Gguf(String),
    /// `config.json`, `tokenizer.json`, the weights, and what goes with them.
    Safetensors(Vec<String>),
}

impl Selection {
    pub(crate) fn files(&self) -> Vec<&str> {
        match self {
            Self::Gguf(file) => vec![file],
            Self::Safetensors(files) => files.iter().map(String::as_str).collect(),
        }
    }
}

/// Chooses among the files of a repository.
///
/// # Errors
/// A sentence that says what is missing and what there is.
pub(crate) fn select(files: &[&str], want: &HubFile) -> Result<Selection, String> {
    let ggufs = gguf_files(files);
    let has = || match ggufs.as_slice() {
        [] => "it has no GGUF file".to_owned(),
        some => format!("it has {}", some.join(", ")),
    };
    match want {
        HubFile::Named(name) => match files.iter().find(|file| *file == name) {
            Some(file) => Ok(Selection::Gguf((*file).to_owned())),
            None => Err(format!("there is no file `{name}`; {}", has())),
        },
        HubFile::Quant(quant) => shortest(&ggufs, quant)
            .map(|file| Selection::Gguf(file.to_owned()))
            .ok_or_else(|| format!("there is no GGUF file of quantisation {quant}; {}", has())),
        HubFile::Auto if ggufs.is_empty() => safetensors(files),
        HubFile::Auto => Ok(Selection::Gguf(
            PREFERRED
                .iter()
                .find_map(|quant| shortest(&ggufs, quant))
                .unwrap_or(ggufs[0])
                .to_owned(),
        )),
    }
}

/// GGUF files that are a language model of their own: not one of several pieces, not the projector of a vision model.
fn gguf_files<'a>(files: &[&'a str]) -> Vec<&'a str> {
    let mut names: Vec<&str> = files
        .iter()
        .copied()
        .filter(|file| file.to_ascii_lowercase().ends_with(".gguf"))
        .filter(|file| !is_piece(file) && !file.to_ascii_lowercase().contains("mmproj"))
        .collect();
    names.sort_unstable();
    names
}

/// `name-00001-of-00003.gguf`.
fn is_piece(file: &str) -> bool {
    let stem = &file[..file.len() - ".gguf".len()];
    let mut ends = stem.rsplit('-');
    let number = |text: Option<&str>| {
        text.is_some_and(|t| t.len() == 5 && t.bytes().all(|b| b.is_ascii_digit()))
    };
    number(ends.next()) && ends.next() == Some("of") && number(ends.next())
}

/// The file of a quantisation; the shortest name when several fit (`x-Q4_0.gguf` before `x-imat-Q4_0.gguf`).
fn shortest<'a>(ggufs: &[&'a str], quant: &str) -> Option<&'a str> {
    let quant = quant.to_ascii_lowercase();
    let fits = |file: &&&str| {
        let name = file.to_ascii_lowercase();
        let stem = &name[..name.len() - ".gguf".len()];
        stem.split(['-', '.', '/']).any(|word| word == quant)
            || stem.ends_with(&format!("_{quant}"))
    };
    ggufs.iter().filter(fits).min_by_key(|file| (file.len(), **file)).copied()
}

fn safetensors(files: &[&str]) -> Result<Selection, String> {
    let has = |name: &str| files.contains(&name);
    for required in REQUIRED {
        if !has(required) {
            return Err(format!("it has neither a GGUF file nor {required}"));
        }
    }
    let mut chosen: Vec<String> = REQUIRED.map(str::to_owned).to_vec();
    chosen.extend(OPTIONAL.iter().filter(|name| has(name)).map(|name| (*name).to_owned()));
    if has(SINGLE) {
        chosen.push(SINGLE.to_owned());
    } else if has(INDEX) {
        chosen.push(INDEX.to_owned());
        let pieces =
            files.iter().filter(|f| f.starts_with("model-") && f.ends_with(".safetensors"));
        chosen.extend(pieces.map(|file| (*file).to_owned()));
    } else {
        return Err(format!("it has neither a GGUF file, nor {SINGLE}, nor {INDEX}"));
    }
    Ok(Selection::Safetensors(chosen))
}

#[derive(Deserialize)]
struct WeightIndex {
    weight_map: std::collections::BTreeMap<String, String>,
}

/// The files of a safetensors model in a folder, sorted, all of them there.
///
/// # Errors
/// [`ModelError::InvalidSafetensors`] that names what is missing.
pub(crate) fn folder_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let invalid =
        |problem: String| ModelError::InvalidSafetensors { path: folder.to_owned(), problem };
    let mut names: Vec<String> = REQUIRED.map(str::to_owned).to_vec();
    names.extend(OPTIONAL.iter().filter(|n| folder.join(n).is_file()).map(|n| (*n).to_owned()));
    let index = folder.join(INDEX);
    if folder.join(SINGLE).is_file() {
        names.push(SINGLE.to_owned());
    } else if index.is_file() {
        let text = std::fs::read_to_string(&index).map_err(|source| ModelError::Io {
            action: "read",
            path: index.clone(),
            source,
        })?;
        let map: WeightIndex = serde_json::from_str(&text)
            .map_err(|error| invalid(format!("{INDEX}: {error}; expected `weight_map`")))?;
        let pieces: std::collections::BTreeSet<String> = map.weight_map.into_values().collect();
        if pieces.is_empty() {
            return Err(invalid(format!("{INDEX} lists no file")));
        }
        for piece in &pieces {
            if piece.contains(['/', '\\']) || piece == ".." {
                return Err(invalid(format!(
                    "{INDEX} names `{piece}`, expected a file of this folder"
                )));
            }
        }
        names.push(INDEX.to_owned());
        names.extend(pieces);
    } else {
        return Err(invalid(format!("it has neither {SINGLE} nor {INDEX}")));
    }
    names.sort();
    let paths: Vec<PathBuf> = names.iter().map(|name| folder.join(name)).collect();
    match paths.iter().position(|path| !path.is_file()) {
        Some(missing) => Err(invalid(format!("{} is missing", names[missing]))),
        None => Ok(paths),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QWEN: [&str; 6] = [
        "README.md",
        "qwen2.5-0.5b-instruct-fp16.gguf",
        "qwen2.5-0.5b-instruct-q4_0.gguf",
        "qwen2.5-0.5b-instruct-q4_k_m.gguf",
        "qwen2.5-0.5b-instruct-q8_0-00001-of-00002.gguf",
        "mmproj-q4_k_m.gguf",
    ];

    fn gguf(file: &str) -> Result<Selection, String> {
        Ok(Selection::Gguf(file.to_owned()))
    }

    #[test]
    fn the_best_gguf_is_taken() {
        assert_eq!(select(&QWEN, &HubFile::Auto), gguf("qwen2.5-0.5b-instruct-q4_k_m.gguf"));
        assert_eq!(select(&["z.gguf", "a.gguf"], &HubFile::Auto), gguf("a.gguf"));
        assert_eq!(select(&["m.Q8_0.gguf", "m.Q4_0.gguf"], &HubFile::Auto), gguf("m.Q4_0.gguf"));
    }

    #[test]
    fn a_quantisation_is_found_whatever_the_names_style() {
        let quant = |q: &str| HubFile::Quant(q.to_owned());
        assert_eq!(select(&QWEN, &quant("Q4_0")), gguf("qwen2.5-0.5b-instruct-q4_0.gguf"));
        assert_eq!(
            select(&["a.Q4_0.gguf", "a.Q4_0_4_4.gguf"], &quant("q4_0")),
            gguf("a.Q4_0.gguf")
        );
        assert_eq!(select(&["m_Q6_K.gguf"], &quant("Q6_K")), gguf("m_Q6_K.gguf"));
        assert_eq!(select(&["Q6_K/m.gguf"], &quant("Q6_K")), gguf("Q6_K/m.gguf"));
        let error = select(&QWEN, &quant("Q8_0")).expect_err("only in pieces");
        assert!(error.contains("Q8_0") && error.contains("q4_k_m.gguf"), "{error}");
    }

    #[test]
    fn a_named_file_must_be_there() {
        let named = HubFile::Named("nope.gguf".to_owned());
        let error = select(&QWEN, &named).expect_err("absent");
        assert!(error.contains("nope.gguf") && error.contains("q4_0.gguf"), "{error}");
    }

    #[test]
    fn safetensors_are_taken_with_all_they_need() {
        let files = ["config.json", "tokenizer.json", "model.safetensors", "pytorch_model.bin"];
        let chosen = select(&files, &HubFile::Auto).expect("complete");
        assert_eq!(chosen.files(), ["config.json", "tokenizer.json", "model.safetensors"]);
        let error =
            select(&["config.json", "model.safetensors"], &HubFile::Auto).expect_err("lacks");
        assert!(error.contains("tokenizer.json"), "{error}");
        let error = select(&["README.md"], &HubFile::Auto).expect_err("nothing");
        assert!(error.contains("config.json"), "{error}");
    }

    #[test]
    fn a_folder_says_what_it_lacks() {
        let dir = tempfile::tempdir().expect("dir");
        let problem = || folder_files(dir.path()).expect_err("incomplete").to_string();
        let put =
            |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("write");
        put("config.json", "{}");
        assert!(problem().contains("neither model.safetensors nor"), "{}", problem());
        put(INDEX, r#"{"weight_map":{"a":"model-00001-of-00001.safetensors"}}"#);
        assert!(problem().contains("model-00001-of-00001.safetensors is missing"), "{}", problem());
        put("model-00001-of-00001.safetensors", "x");
        assert!(problem().contains("tokenizer.json is missing"), "{}", problem());
        put("tokenizer.json", "{}");
        assert_eq!(folder_files(dir.path()).expect("complete").len(), 4);
        put(INDEX, r#"{"weight_map":{"a":"../../x"}}"#);
        assert!(problem().contains("expected a file of this folder"), "{}", problem());
    }
}
