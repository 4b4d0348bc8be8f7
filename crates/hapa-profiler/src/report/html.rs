//! Reports as one self-contained HTML page: a flame view of the tree and a table that sorts.

use std::fmt::Write as _;

use super::{Report, TreeNode, text::human_seconds};

const STYLE: &str = include_str!("report.css");
const SCRIPT: &str = include_str!("report.js");

/// Children narrower than this part of the whole are drawn as one.
const NARROWEST_PERCENT: f64 = 0.2;

impl Report {
    /// A page without references to anything outside of it.
    pub fn to_html(&self) -> String {
        let mut out = String::with_capacity(32 * 1024);
        let _ = write!(
            out,
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>HAPA profile</title>\n<style>{STYLE}</style></head><body>\n\
             <h1>Profile</h1>\n<p>{}.</p>\n",
            escape(&self.summary())
        );
        let whole: f64 = self.tree.iter().map(|node| node.total_seconds).sum();
        if whole > 0.0 {
            out.push_str(
                "<h2>Call tree</h2>\n<p class=\"hint\">Width is busy time. Select a bar to \
                 see it alone; select the top bar to go back.</p>\n<div id=\"flame\">",
            );
            let all = TreeNode {
                name: "all".to_owned(),
                total_seconds: whole,
                children: self.tree.clone(),
                ..TreeNode::default()
            };
            bar(&mut out, &all, whole, whole);
            out.push_str("</div>\n");
        }
        out.push_str("<h2>Scopes</h2>\n<div class=\"wide\"><table id=\"scopes\"><thead><tr>");
        let (heads, rows) = self.rows();
        for head in &heads {
            let _ = write!(out, "<th><button type=\"button\">{head}</button></th>");
        }
        out.push_str("</tr></thead><tbody>\n");
        for (row, scope) in rows.iter().zip(&self.scopes) {
            // The number behind each cell, for sorting.
            let mut keys = vec![scope.calls.to_string()];
            let times = [
                scope.total_seconds,
                scope.self_seconds,
                scope.mean_seconds,
                scope.p50_seconds,
                scope.p90_seconds,
                scope.p99_seconds,
                scope.max_seconds,
            ];
            keys.extend(times.map(|seconds| seconds.to_string()));
            if heads.contains(&"allocs") {
                let bytes = [scope.allocations, scope.allocated_bytes, scope.peak_live_bytes];
                keys.extend(bytes.map(|count| count.to_string()));
            }
            keys.push(scope.resident_delta_bytes.to_string());
            let _ = write!(out, "<tr><td>{}</td>", escape(&row[0]));
            for (cell, key) in row[1..].iter().zip(&keys) {
                let _ = write!(out, "<td data-key=\"{key}\">{cell}</td>");
            }
            out.push_str("</tr>\n");
        }
        let _ = write!(out, "</tbody></table></div>\n<script>{SCRIPT}</script>\n</body></html>\n");
        out
    }
}

/// One bar and those below it; widths are parts of the parent's.
fn bar(out: &mut String, node: &TreeNode, parent_seconds: f64, whole: f64) {
    let percent = |seconds: f64, of: f64| if of > 0.0 { 100.0 * seconds / of } else { 0.0 };
    let width = percent(node.total_seconds, parent_seconds).min(100.0);
    let title = format!(
        "{}: {} ({:.1}%), itself {}, {} calls",
        node.name,
        human_seconds(node.total_seconds),
        percent(node.total_seconds, whole),
        human_seconds(node.self_seconds),
        node.calls
    );
    let _ = write!(
        out,
        "<div class=\"node\" style=\"width:{width:.3}%\"><button type=\"button\" class=\"bar\" \
         style=\"background:hsl({} 62% 78%)\" title=\"{}\">{}</button>",
        hue(&node.name),
        escape(&title),
        escape(&node.name)
    );
    if !node.children.is_empty() {
        out.push_str("<div class=\"row\">");
        for child in &node.children {
            if percent(child.total_seconds, whole) >= NARROWEST_PERCENT {
                bar(out, child, node.total_seconds, whole);
            }
        }
        out.push_str("</div>");
    }
    out.push_str("</div>");
}

/// The same warm colour for the same name, always.
fn hue(name: &str) -> u32 {
    let hash = name
        .bytes()
        .fold(2_166_136_261_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(16_777_619));
    (hash >> 8) % 60 + 10
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}
