//! A radix tree over token ids, one KV page a node: which prefixes have been computed already.
//!
//! The method is that of SGLang's RadixAttention (Zheng et al., 2023), at page grain: a node stands
//! for one page of tokens after its parent's, so the path from a root spells a prefix. A page that
//! is only partly filled can be a leaf. The tree holds one reference on each of its pages; a leaf
//! whose page nobody else holds can be evicted, the least recently used first.
//!
//! Looking a prompt up costs one pass over its tokens and over the children met on the way.
//! Eviction scans the nodes: their number is bounded by the number of pages, a few thousand.

use std::collections::HashMap;

use super::pages::PageTable;

pub(super) type NodeIndex = u32;

#[derive(Debug)]
struct Node {
    parent: Option<NodeIndex>,
    tokens: Box<[u32]>,
    /// `None` for the root of a namespace.
    page: Option<u32>,
    children: Vec<NodeIndex>,
    last_used: u64,
}

/// The longest known prefix of a prompt.
#[derive(Debug, Default)]
pub(super) struct Match {
    /// Nodes of whole pages, from the root down.
    pub(super) path: Vec<NodeIndex>,
    /// A page whose first tokens continue the prefix, and how many of them do.
    pub(super) partial: Option<(u32, usize)>,
}

#[derive(Debug)]
pub(super) struct PrefixTree {
    nodes: Vec<Option<Node>>,
    vacant: Vec<NodeIndex>,
    roots: HashMap<u64, NodeIndex>,
    page_tokens: usize,
    clock: u64,
}

fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

impl PrefixTree {
    pub(super) fn new(page_tokens: usize) -> Self {
        Self { nodes: Vec::new(), vacant: Vec::new(), roots: HashMap::new(), page_tokens, clock: 0 }
    }

    #[expect(
        clippy::expect_used,
        reason = "indices come from this tree and are dropped with the node"
    )]
    fn node(&self, index: NodeIndex) -> &Node {
        self.nodes[index as usize].as_ref().expect("a live node")
    }

    #[expect(
        clippy::expect_used,
        reason = "indices come from this tree and are dropped with the node"
    )]
    fn node_mut(&mut self, index: NodeIndex) -> &mut Node {
        self.nodes[index as usize].as_mut().expect("a live node")
    }

    fn add(&mut self, node: Node) -> NodeIndex {
        match self.vacant.pop() {
            Some(index) => {
                self.nodes[index as usize] = Some(node);
                index
            }
            None => {
                self.nodes.push(Some(node));
                (self.nodes.len() - 1) as NodeIndex
            }
        }
    }

    fn root(&mut self, namespace: u64) -> NodeIndex {
        if let Some(&root) = self.roots.get(&namespace) {
            return root;
        }
        let root = self.add(Node {
            parent: None,
            tokens: Box::default(),
            page: None,
            children: Vec::new(),
            last_used: 0,
        });
        self.roots.insert(namespace, root);
        root
    }

    pub(super) fn page(&self, node: NodeIndex) -> Option<u32> {
        self.node(node).page
    }

    /// Marks nodes as used now.
    pub(super) fn touch(&mut self, path: &[NodeIndex]) {
        self.clock += 1;
        let now = self.clock;
        for &node in path {
            self.node_mut(node).last_used = now;
        }
    }

    /// Finds the longest known prefix of `tokens`.
    pub(super) fn find(&mut self, namespace: u64, tokens: &[u32]) -> Match {
        let mut found = Match::default();
        let Some(&root) = self.roots.get(&namespace) else { return found };
        let (mut at, mut rest) = (root, tokens);
        while !rest.is_empty() {
            let best = self
                .node(at)
                .children
                .iter()
                .map(|&c| (common_prefix(&self.node(c).tokens, rest), c));
            let Some((shared, child)) = best.max_by_key(|&(shared, _)| shared) else { break };
            if shared == self.page_tokens {
                found.path.push(child);
                (at, rest) = (child, &rest[shared..]);
                continue;
            }
            if shared > 0 {
                found.partial = self.node(child).page.map(|page| (page, shared));
                self.touch(&[child]);
            }
            break;
        }
        let path = std::mem::take(&mut found.path);
        self.touch(&path);
        found.path = path;
        found
    }

    /// The node and page of exactly these `tokens` after `parent` (the namespace's root when `None`).
    pub(super) fn child(
        &self,
        (namespace, parent): (u64, Option<NodeIndex>),
        tokens: &[u32],
    ) -> Option<(NodeIndex, u32)> {
        let parent = parent.or_else(|| self.roots.get(&namespace).copied())?;
        let mut children = self.node(parent).children.iter();
        let child = children.find(|&&child| *self.node(child).tokens == *tokens)?;
        Some((*child, self.node(*child).page?))
    }

    /// Inserts a page of `tokens` after `parent` (the namespace's root when `None`) and returns its node.
    ///
    /// When the tree has these tokens already, the node that has them is returned and `page` is not taken.
    /// Otherwise the tree retains `page`. A partial page is refused (`None`) when a sibling covers it.
    pub(super) fn insert(
        &mut self,
        (namespace, parent): (u64, Option<NodeIndex>),
        tokens: &[u32],
        page: u32,
        pages: &mut PageTable,
    ) -> Option<NodeIndex> {
        debug_assert!(!tokens.is_empty() && tokens.len() <= self.page_tokens);
        let parent = parent.unwrap_or_else(|| self.root(namespace));
        let mut covered = None;
        for position in 0..self.node(parent).children.len() {
            let child = self.node(parent).children[position];
            let has = &self.node(child).tokens;
            if common_prefix(has, tokens) < has.len().min(tokens.len()) {
                continue;
            }
            if has.len() == tokens.len() {
                return Some(child);
            }
            if has.len() > tokens.len() {
                return None;
            }
            covered = Some(child);
        }
        pages.retain(page);
        self.clock += 1;
        let node = self.add(Node {
            parent: Some(parent),
            tokens: tokens.into(),
            page: Some(page),
            children: Vec::new(),
            last_used: self.clock,
        });
        self.node_mut(parent).children.push(node);
        // At most one sibling can be a proper prefix: two would be prefixes of each other. It goes last, since a
        // root goes with its last child.
        if let Some(shorter) = covered {
            self.remove(shorter, pages);
        }
        Some(node)
    }

    fn remove(&mut self, index: NodeIndex, pages: &mut PageTable) {
        let Some(node) = self.nodes[index as usize].take() else { return };
        debug_assert!(node.children.is_empty());
        self.vacant.push(index);
        if let Some(page) = node.page {
            pages.release(page);
        }
        let Some(parent) = node.parent else { return };
        let siblings = &mut self.node_mut(parent).children;
        siblings.retain(|&c| c != index);
        if siblings.is_empty() && self.node(parent).page.is_none() {
            self.roots.retain(|_, root| *root != parent);
            self.nodes[parent as usize] = None;
            self.vacant.push(parent);
        }
    }

    /// Gives up the least recently used leaf that only the tree holds. False when there is none.
    pub(super) fn evict(&mut self, pages: &mut PageTable) -> bool {
        let leaves = self.nodes.iter().enumerate().filter_map(|(index, node)| {
            let node = node.as_ref()?;
            let page = node.page?;
            (node.children.is_empty() && pages.refs(page) == 1).then_some((node.last_used, index))
        });
        match leaves.min() {
            Some((_, index)) => {
                self.remove(index as NodeIndex, pages);
                true
            }
            None => false,
        }
    }

    /// Pages in the tree that nobody else holds.
    pub(super) fn idle_pages(&self, pages: &PageTable) -> usize {
        self.nodes.iter().flatten().filter_map(|n| n.page).filter(|&p| pages.refs(p) == 1).count()
    }

    /// Adds this tree's references to `refs` and checks its shape.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn check(&self, refs: &mut [u32]) -> Result<(), String> {
        for (index, node) in self.nodes.iter().enumerate() {
            let Some(node) = node else {
                if !self.vacant.contains(&(index as NodeIndex)) {
                    return Err(format!("node {index} is empty but not vacant"));
                }
                continue;
            };
            match (node.parent, node.page) {
                (Some(parent), Some(page)) => {
                    refs[page as usize] += 1;
                    if !self.node(parent).children.contains(&(index as NodeIndex)) {
                        return Err(format!("node {index} is missing from its parent"));
                    }
                    if node.tokens.is_empty() || node.tokens.len() > self.page_tokens {
                        return Err(format!("node {index} has {} tokens", node.tokens.len()));
                    }
                    if node.tokens.len() < self.page_tokens && !node.children.is_empty() {
                        return Err(format!("partial node {index} has children"));
                    }
                }
                (None, None) => {
                    if !self.roots.values().any(|&root| root as usize == index) {
                        return Err(format!("root {index} belongs to no namespace"));
                    }
                }
                _ => return Err(format!("node {index} is neither root nor page")),
            }
            for (position, &a) in node.children.iter().enumerate() {
                if self.node(a).parent != Some(index as NodeIndex) {
                    return Err(format!("child {a} does not name {index} as its parent"));
                }
                for &b in &node.children[position + 1..] {
                    let (x, y) = (&self.node(a).tokens, &self.node(b).tokens);
                    if common_prefix(x, y) == x.len().min(y.len()) {
                        return Err(format!("siblings {a} and {b} cover each other"));
                    }
                }
            }
        }
        Ok(())
    }
}
