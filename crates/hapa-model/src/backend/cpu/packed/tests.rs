//! The packed file: made, mapped, refused when it is stale or damaged.

use std::path::Path;

use hapa_kernels::{GgmlType, Team};
use parking_lot::Mutex;

use super::{PackRequest, PackedWeights, packed_path};
use crate::gguf::GgufFile;
use crate::store::{LoadEvent, ProgressSink};
use crate::testing::TinyModel;

/// Counts the matrices that were packed.
#[derive(Default)]
struct Packed(Mutex<usize>);

impl ProgressSink for Packed {
    fn event(&self, event: &LoadEvent) {
        if let LoadEvent::Packing { .. } = event {
            *self.0.lock() += 1;
        }
    }
}

/// Opens the packed weights of a file and returns their bytes and how many matrices were packed for it.
fn open(path: &Path, digest: &str) -> (Vec<Vec<u8>>, usize) {
    let gguf = GgufFile::open(path).unwrap();
    let names: Vec<String> = gguf
        .tensors()
        .iter()
        .filter(|t| t.shape.len() == 2 && t.name != "token_embd.weight")
        .map(|t| t.name.clone())
        .collect();
    let table = Some("token_embd.weight");
    let request = PackRequest { gguf: &gguf, digest, names: &names, table };
    let sink = Packed::default();
    let packed = PackedWeights::open(&request, &mut Team::new(2), &sink).unwrap();
    let embedding = gguf.require_tensor("token_embd.weight").unwrap();
    assert!(packed.table() == gguf.tensor_bytes(embedding), "the table is kept as it is");
    let bytes = (0..names.len()).map(|i| packed.view(i).bytes().to_vec()).collect();
    (bytes, sink.0.into_inner())
}

fn tiny(folder: &Path) -> std::path::PathBuf {
    let path = folder.join("tiny.gguf");
    TinyModel::qwen2().weights(GgmlType::Q5_0).write(&path).unwrap();
    path
}

#[test]
fn the_second_start_maps_what_the_first_packed() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny(folder.path());
    let (first, packed) = open(&model, "a");
    assert!(packed > 0);
    let (second, packed) = open(&model, "a");
    assert_eq!(packed, 0);
    assert_eq!(first, second);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "no temporary file stays");
}

#[test]
fn damaged_and_stale_files_are_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny(folder.path());
    let target = packed_path(&model);
    let (good, _) = open(&model, "a");
    let whole = std::fs::read(&target).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    let mut other_version = whole.clone();
    other_version[8] ^= 1;
    let damaged: [&[u8]; 4] = [&flipped, &other_version, &whole[..whole.len() / 2], b""];
    for bytes in damaged {
        std::fs::write(&target, bytes).unwrap();
        let (again, packed) = open(&model, "a");
        assert!(packed > 0, "made again");
        assert_eq!(again, good);
        assert_eq!(std::fs::read(&target).unwrap(), whole, "the good file is back");
    }
    assert!(open(&model, "another model").1 > 0, "a file for another digest is stale");
}

#[test]
fn where_no_file_can_be_made_the_weights_stay_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny(folder.path());
    let (good, _) = open(&model, "a");
    std::fs::remove_file(packed_path(&model)).unwrap();
    // A folder in its place: the file can be written but never named. (Permissions do not stop root.)
    std::fs::create_dir(packed_path(&model)).unwrap();
    let (bytes, packed) = open(&model, "a");
    assert!(packed > 0);
    assert_eq!(bytes, good);
}
