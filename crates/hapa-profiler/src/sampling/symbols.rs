//! From addresses to functions and lines.

use std::{collections::HashMap, path::Path, sync::Arc};

use addr2line::Loader;

/// A function on a stack, inlined ones included.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) function: Arc<str>,
    /// Shortened to what says most; empty when unknown.
    pub(super) file: Arc<str>,
    pub(super) line: u32,
}

impl Place {
    fn is_standard(&self) -> bool {
        ["core/src/", "alloc/src/", "std/src/", "core_arch/src/"]
            .iter()
            .any(|start| self.file.starts_with(start))
    }
}

/// Looks each address up once.
pub(super) struct Symbols {
    known: HashMap<usize, Vec<Place>>,
    table: Option<SymbolTable>,
}

/// Full paths of functions: debug information that holds only lines names a function without its path.
struct SymbolTable {
    loader: Loader,
    /// Where the program lies in memory, less where its file says.
    bias: usize,
}

impl SymbolTable {
    fn open() -> Option<Self> {
        let path = std::env::current_exe().ok()?;
        let loader = Loader::new(&path).ok()?;
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        let line = maps.lines().find(|line| line.ends_with(&*path.to_string_lossy()))?;
        let start = usize::from_str_radix(line.split('-').next()?, 16).ok()?;
        // A program that was linked to a fixed place lies where its file says. This function tells which.
        let mut tables = [start, 0].map(|bias| (bias, Self::open as fn() -> Option<Self> as usize));
        let fits = |(bias, known): &mut (usize, usize)| {
            let probe = known.checked_sub(*bias).map(|probe| probe as u64);
            probe
                .and_then(|probe| loader.find_symbol(probe))
                .is_some_and(|name| name.contains("SymbolTable"))
        };
        let bias = tables.iter_mut().find_map(|table| fits(table).then_some(table.0))?;
        Some(Self { loader, bias })
    }

    fn name(&self, address: usize) -> Option<Arc<str>> {
        let probe = address.checked_sub(self.bias)? as u64;
        let name = self.loader.find_symbol(probe)?;
        Some(Arc::from(format!("{:#}", backtrace::SymbolName::new(name.as_bytes()))))
    }
}

impl Symbols {
    pub(super) fn new() -> Self {
        Self { known: HashMap::new(), table: SymbolTable::open() }
    }

    /// The functions at an address, the innermost inlined one first. `is_innermost` tells the
    /// interrupted instruction from a return address, which lies after its call.
    pub(super) fn at(&mut self, address: usize, is_innermost: bool) -> &[Place] {
        // The resolver takes every address for a return address.
        let address = if is_innermost { address + 1 } else { address };
        let table = &self.table;
        self.known.entry(address).or_insert_with(|| {
            let mut places = look_up(address);
            // What was inlined out of the standard library counts for the code that it was inlined into: a line of
            // `core` says nothing of where the time goes.
            let own =
                places.iter().position(|place| !place.is_standard()).unwrap_or(places.len() - 1);
            places.drain(..own);
            // The last one is the function itself; the others were inlined into it and have no symbol.
            if let Some(name) = table.as_ref().and_then(|table| table.name(address - 1))
                && let Some(last) = places.last_mut()
            {
                last.function = name;
            }
            places
        })
    }
}

fn look_up(address: usize) -> Vec<Place> {
    let mut places = Vec::new();
    backtrace::resolve(address as *mut _, |symbol| {
        // `{:#}` leaves the hash out.
        let function = symbol.name().map_or_else(String::new, |name| format!("{name:#}"));
        places.push(Place {
            function: if function.is_empty() {
                Arc::from("(unknown)")
            } else {
                Arc::from(function)
            },
            file: symbol.filename().map_or_else(|| Arc::from(""), |path| Arc::from(shorten(path))),
            line: symbol.lineno().unwrap_or(0),
        });
    });
    if places.is_empty() {
        places.push(Place { function: Arc::from("(unknown)"), file: Arc::from(""), line: 0 });
    }
    places
}

/// `hapa-kernels/src/matmul/avx512.rs`: from the crate's folder on.
fn shorten(path: &Path) -> String {
    let text = path.to_string_lossy().replace('\\', "/");
    let folders = ["/src/", "/tests/", "/benches/", "/examples/"];
    let Some(source) = folders.iter().filter_map(|folder| text.rfind(folder)).min() else {
        return text;
    };
    let start = text[..source].rfind('/').map_or(0, |slash| slash + 1);
    text[start..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_begin_with_their_crate() {
        assert_eq!(
            shorten(Path::new("/home/a/hapa/crates/hapa-kernels/src/matmul/avx2.rs")),
            "hapa-kernels/src/matmul/avx2.rs"
        );
        assert_eq!(shorten(Path::new("build.rs")), "build.rs");
    }
}
