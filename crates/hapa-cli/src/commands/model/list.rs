//! `hapa model list`.

use clap::Args;
use hapa_model::Origin;
use hapa_model::catalog::{CatalogModel, catalog};
use hapa_model::store::{Leftover, StoredModel};
use serde_json::{Value, json};

use crate::console::{print, print_json};
use crate::error::Result;
use crate::session::Session;
use crate::text::{bytes, table};

/// Show the models on this machine, and those that could be fetched by name
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hapa model list
  hapa model list --json | jq -r '.models[] | select(.present) | .path'

--json prints {home, models: [{name, present, path, bytes, beside_bytes, sha256, origin, license, title}],
leftovers: [{path, bytes}]}.")]
pub(crate) struct List {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl List {
    pub(super) fn run(self, session: &Session) -> Result<()> {
        let store = session.store()?;
        let stored = store.list();
        let leftovers = store.leftovers();
        let absent: Vec<_> = catalog()
            .iter()
            .filter(|entry| stored.iter().all(|model| model.name != entry.id))
            .collect();
        if self.json {
            let present = stored.iter().map(present_json);
            let models: Vec<Value> = present.chain(absent.iter().map(|m| absent_json(m))).collect();
            return print_json(&json!({
                "home": store.home(),
                "models": models,
                "leftovers": leftovers,
            }));
        }
        let mut rows =
            vec![["MODEL", "SIZE", "WHERE", "LICENCE", "WHAT"].map(str::to_owned).to_vec()];
        for model in &stored {
            let entry = entry(&model.name);
            let beside = match model.beside_bytes {
                0..=65_535 => String::new(),
                more => format!(" + {}", bytes(more)),
            };
            rows.push(vec![
                model.name.clone(),
                bytes(model.bytes) + &beside,
                model.origin.to_string(),
                entry.map_or("-", |entry| &entry.license).to_owned(),
                entry.map_or("", |entry| &entry.title).to_owned(),
            ]);
        }
        for entry in absent {
            rows.push(vec![
                entry.id.clone(),
                bytes(entry.bytes),
                "not here".to_owned(),
                entry.license.clone(),
                entry.title.clone(),
            ]);
        }
        print(&table(&rows))?;
        tell_of_leftovers(session, &leftovers);
        Ok(())
    }
}

fn tell_of_leftovers(session: &Session, leftovers: &[Leftover]) {
    let total: u64 = leftovers.iter().map(|leftover| leftover.bytes).sum();
    if total > 0 {
        session.console.note(&format!(
            "{} of interrupted downloads; the next pull goes on with them, `hapa model rm --leftovers` removes them",
            bytes(total)
        ));
    }
}

fn entry(name: &str) -> Option<&'static CatalogModel> {
    catalog().iter().find(|entry| entry.id == name).map(AsRef::as_ref)
}

fn present_json(model: &StoredModel) -> Value {
    let origin = match model.origin {
        Origin::HubCache => "hub-cache",
        _ => "store",
    };
    let entry = entry(&model.name);
    json!({
        "name": model.name,
        "present": true,
        "path": model.path,
        "bytes": model.bytes,
        "beside_bytes": model.beside_bytes,
        "sha256": model.digest,
        "origin": origin,
        "license": entry.map(|entry| &entry.license),
        "title": entry.map(|entry| &entry.title),
    })
}

fn absent_json(entry: &CatalogModel) -> Value {
    json!({
        "name": entry.id,
        "present": false,
        "path": null,
        "bytes": entry.bytes,
        "beside_bytes": 0,
        "sha256": entry.sha256,
        "origin": null,
        "license": entry.license,
        "title": entry.title,
    })
}
