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
    /// Whether it belongs to the standard library.
    pub(super) fn is_standard(&self) -> bool {
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

    /// A stack of addresses, the innermost frame first, as its functions, the outermost one first.
    pub(super) fn stack(&mut self, addresses: &[usize]) -> Vec<Place> {
        let mut stack = Vec::new();
        for (depth, address) in addresses.iter().enumerate() {
            stack.extend_from_slice(self.at(*address, depth == 0));
        }
        stack.reverse();
        stack
    }

    /// The functions at an address, the innermost inlined one first. `is_innermost` tells the
    /// interrupted instruction from a return address, which lies after its call.
    fn at(&mut self, address: usize, is_innermost: bool) -> &[Place] {
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
            if let Some(name) =
                table.as_ref().and_then(|table| table.name(address.saturating_sub(1)))
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
        let file = symbol.filename().map_or_else(String::new, shorten);
        places.push(Place {
            function: Arc::from(with_module(&function, &file)),
            file: Arc::from(file),
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

/// Debug information that holds only lines names an inlined function without its path: the file tells the module.
fn with_module(function: &str, file: &str) -> String {
    if function.is_empty() {
        return "(unknown)".to_owned();
    }
    // What stands before generic arguments says whether there is a path.
    let bare = function.split('<').next().unwrap_or_default();
    let Some((krate, rest)) = file.split_once("/src/").filter(|_| !bare.is_empty()) else {
        return function.to_owned();
    };
    let (false, Some(path)) = (bare.contains("::"), rest.strip_suffix(".rs")) else {
        return function.to_owned();
    };
    // `backtrace-0.3.76` is the folder of `backtrace`.
    let krate = match krate.rsplit_once('-') {
        Some((name, version)) if version.starts_with(|c: char| c.is_ascii_digit()) => name,
        _ => krate,
    };
    let modules = path.split('/').filter(|part| !["mod", "lib", "main"].contains(part));
    let mut full = krate.replace('-', "_");
    for part in modules.chain([function]) {
        full.push_str("::");
        full.push_str(part);
    }
    full
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

    #[test]
    fn functions_without_a_path_get_that_of_their_file() {
        for (function, file, full) in [
            (
                "tile<a::B, 2>",
                "hapa-kernels/src/matmul/avx512/mod.rs",
                "hapa_kernels::matmul::avx512::tile<a::B, 2>",
            ),
            ("{closure#0}", "twox-hash-2.1.5/src/lib.rs", "twox_hash::{closure#0}"),
            ("a::b<c>", "a/src/lib.rs", "a::b<c>"),
            ("<a::B as C>::d", "a/src/lib.rs", "<a::B as C>::d"),
            ("sched_yield", "./posix/../sysdeps/unix/syscall-template.S", "sched_yield"),
            ("", "a/src/lib.rs", "(unknown)"),
        ] {
            assert_eq!(with_module(function, file), full);
        }
    }
}
