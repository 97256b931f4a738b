//! Which nodes changed, in order: who keeps something about nodes takes over what is new since he last looked.
//!
//! Deliberately absent: what changed.

use crate::state::topology::NodeIx;

/// Changed nodes, the last at the end.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    nodes: Vec<NodeIx>,
    /// Entries dropped so far.
    dropped: u64,
    /// Somebody knows its end: what follows is new to him.
    is_read: bool,
    /// Entries kept at most: beyond, looking at all nodes costs no more.
    most: usize,
}

impl Journal {
    /// For a fleet of so many nodes.
    pub(crate) const fn new(nodes: usize) -> Self {
        Self { nodes: Vec::new(), dropped: 0, is_read: false, most: 2 * nodes + 64 }
    }

    /// A node changed.
    pub(crate) fn note(&mut self, node: NodeIx) {
        if !std::mem::take(&mut self.is_read) && self.nodes.last() == Some(&node) {
            return;
        }
        if self.nodes.len() >= self.most {
            self.dropped += self.nodes.len() as u64;
            self.nodes.clear();
        }
        self.nodes.push(node);
    }

    /// Where it ends now.
    pub(crate) const fn end(&mut self) -> u64 {
        self.is_read = true;
        self.dropped + self.nodes.len() as u64
    }

    /// What changed since it ended there, the same node perhaps several times; `None`: any node may have.
    pub(crate) fn since(&self, end: u64) -> Option<&[NodeIx]> {
        let from = usize::try_from(end.checked_sub(self.dropped)?).ok()?;
        self.nodes.get(from..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_is_new_or_that_it_forgot() {
        let mut journal = Journal::new(1);
        let before = journal.end();
        for node in [3, 3, 4] {
            journal.note(NodeIx(node));
        }
        assert_eq!(journal.since(before), Some(&[NodeIx(3), NodeIx(4)][..]), "a row of equal ones is one");
        let middle = journal.end();
        assert_eq!(journal.since(middle), Some(&[][..]));
        journal.note(NodeIx(4));
        assert_eq!(journal.since(middle), Some(&[NodeIx(4)][..]), "it changed once more");
        for node in 0..66 {
            journal.note(NodeIx(node));
        }
        assert_eq!(journal.since(before), None, "too long ago");
        assert_eq!(journal.since(middle), None);
        let end = journal.end();
        assert_eq!(journal.since(end), Some(&[][..]));
    }
}
