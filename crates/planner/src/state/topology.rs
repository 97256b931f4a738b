//! The fleet's domains, compiled: nodes in depth-first order of the topology, each level's domains as lists of nodes.
//!
//! INVARIANT: domains of a level are numbered so that those of one parent stand in a row, in both trees; domains
//! without nodes are left out. The last table is not a level: it is the whole fleet as one domain.

use crate::fleet::{DomainSpec, FleetSpec, Level};
use crate::units::{DomainId, NodeId};

/// A node by its place in depth-first order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NodeIx(pub(crate) u32);

impl NodeIx {
    /// As an index.
    pub(crate) const fn at(self) -> usize {
        self.0 as usize
    }

    /// From an index; a fleet has fewer than 2³² nodes.
    pub(crate) fn new(index: usize) -> Self {
        Self(narrow(index))
    }
}

/// A count or an index as 32 bits; all that is counted here is far smaller.
pub(crate) fn narrow(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// No domain of that level.
pub(crate) const NO_DOMAIN: u32 = u32::MAX;

/// All trees over nodes but power's.
#[derive(Debug, Clone)]
pub(crate) struct Topology {
    /// Ids by place.
    ids: Vec<NodeId>,
    /// Places by id, sorted.
    by_id: Vec<(NodeId, NodeIx)>,
    /// Places in `FleetSpec::nodes`, by place.
    spec_places: Vec<u32>,
    tables: Vec<LevelTable>,
    /// Table of each level, in the order of `Level::ALL`.
    table_of: [Option<u8>; 7],
    /// Tables to search for one domain, best first, by what a request says of nearness.
    orders: Vec<SearchOrder>,
}

/// Which tables to search, best first.
#[derive(Debug, Clone, Default)]
pub(crate) struct SearchOrder {
    /// Tables whose every domain lies within one domain of the required level.
    pub(crate) tables: Vec<u8>,
}

/// One level's domains.
#[derive(Debug, Clone)]
pub(crate) struct LevelTable {
    /// `None`: the whole fleet.
    pub(crate) level: Option<Level>,
    /// By node; `NO_DOMAIN` where it is in none.
    pub(crate) domain_of: Vec<u32>,
    /// Where each domain's members begin, and the end of the last.
    offsets: Vec<u32>,
    members: Vec<NodeIx>,
    /// The owner's name of each domain; empty for the whole fleet.
    ids: Vec<DomainId>,
    /// The next finer table of the same tree, and where each domain's children begin in it.
    finer: Option<(u8, Vec<u32>)>,
}

impl LevelTable {
    /// Domains.
    pub(crate) fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Nodes in each domain.
    pub(crate) fn sizes(&self) -> impl Iterator<Item = usize> {
        self.offsets.windows(2).map(|pair| (pair[1] - pair[0]) as usize)
    }

    /// Nodes of a domain, in order.
    pub(crate) fn members(&self, domain: u32) -> &[NodeIx] {
        let at = domain as usize;
        &self.members[self.offsets[at] as usize..self.offsets[at + 1] as usize]
    }

    /// The owner's name of a domain; `None` for the whole fleet.
    pub(crate) fn id(&self, domain: u32) -> Option<DomainId> {
        self.ids.get(domain as usize).copied()
    }

    /// The next finer table of the same tree and the domain's children there.
    pub(crate) fn children(&self, domain: u32) -> Option<(usize, std::ops::Range<u32>)> {
        let (table, offsets) = self.finer.as_ref()?;
        let at = domain as usize;
        Some((usize::from(*table), offsets[at]..offsets[at + 1]))
    }
}

impl Topology {
    /// Compiles a fleet whose domains were checked: parents exist and are coarser, of the same tree.
    pub(crate) fn new(spec: &FleetSpec) -> Self {
        let paths: Vec<[u32; 7]> =
            spec.nodes.iter().map(|node| path(&spec.domains, node.domain, node.fabric)).collect();
        let mut order: Vec<u32> = (0..narrow(spec.nodes.len())).collect();
        order.sort_by_key(|&place| {
            let (path, id) = (&paths[place as usize], spec.nodes[place as usize].id);
            ([path[0], path[1], path[2], path[3]], id)
        });
        let paths: Vec<[u32; 7]> = order.iter().map(|&place| paths[place as usize]).collect();
        let ids: Vec<NodeId> = order.iter().map(|&place| spec.nodes[place as usize].id).collect();
        let mut by_id: Vec<(NodeId, NodeIx)> = ids.iter().enumerate().map(|(at, id)| (*id, NodeIx::new(at))).collect();
        by_id.sort_unstable();
        let mut topology =
            Self { ids, by_id, spec_places: order, tables: Vec::new(), table_of: [None; 7], orders: Vec::new() };
        for level in Level::ALL {
            let at = level as usize;
            if paths.iter().any(|path| path[at] != NO_DOMAIN) {
                topology.table_of[at] = u8::try_from(topology.tables.len()).ok();
                topology.tables.push(level_table(level, &paths));
            }
        }
        topology.tables.push(whole_fleet(paths.len()));
        topology.link();
        topology.orders = topology.search_orders();
        topology
    }

    /// Nodes.
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    /// The owner's number of a node.
    pub(crate) fn id(&self, node: NodeIx) -> NodeId {
        self.ids[node.at()]
    }

    /// The node with this number.
    pub(crate) fn find(&self, id: NodeId) -> Option<NodeIx> {
        let at = self.by_id.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        Some(self.by_id[at].1)
    }

    /// A node's place in `FleetSpec::nodes`.
    pub(crate) fn spec_place(&self, node: NodeIx) -> usize {
        self.spec_places[node.at()] as usize
    }

    /// Every table; the last is the whole fleet.
    pub(crate) fn tables(&self) -> &[LevelTable] {
        &self.tables
    }

    /// The table of a level; `None` where the fleet has no such level.
    pub(crate) fn table_of(&self, level: Level) -> Option<usize> {
        self.table_of[level as usize].map(usize::from)
    }

    /// The table that is the whole fleet.
    pub(crate) fn whole(&self) -> usize {
        self.tables.len() - 1
    }

    /// The table of which one domain must hold a gang: of the level that it insists on, else of the whole fleet; `None`
    /// where the fleet has no such level.
    pub(crate) fn table_within(&self, within: Option<Level>) -> Option<usize> {
        within.map_or_else(|| Some(self.whole()), |level| self.table_of(level))
    }

    /// Tables to search for one domain, best first.
    pub(crate) fn order(&self, within: Option<Level>, prefer: Option<Level>) -> &SearchOrder {
        let place = |level: Option<Level>| level.map_or(0, |level| level as usize + 1);
        &self.orders[place(within) * 8 + place(prefer)]
    }

    /// The domains of a finer table of the same tree within a domain; `None` where that table is not below. All of the
    /// fabric, too, are in the whole fleet.
    pub(crate) fn within(&self, table: usize, domain: u32, finer: usize) -> Option<std::ops::Range<u32>> {
        if table == self.whole() {
            return Some(0..narrow(self.tables[finer].len()));
        }
        let (mut at, mut range) = self.tables[table].children(domain)?;
        while at != finer {
            let last = range.end.checked_sub(1).filter(|last| *last >= range.start)?;
            let (next, first) = self.tables[at].children(range.start)?;
            let (_, last) = self.tables[at].children(last)?;
            (at, range) = (next, first.start..last.end);
        }
        Some(range)
    }

    /// Joins each table with the next finer of its tree.
    fn link(&mut self) {
        for coarse in 0..self.tables.len() {
            let finer = match self.tables[coarse].level {
                None => Level::ALL.iter().find_map(|level| self.table_of(*level).filter(|_| !level.is_fabric())),
                Some(level) => Level::ALL
                    .iter()
                    .filter(|other| other.is_fabric() == level.is_fabric() && **other > level)
                    .find_map(|other| self.table_of(*other)),
            };
            let Some(fine) = finer.filter(|fine| *fine != coarse) else { continue };
            let mut offsets = vec![0; self.tables[coarse].len() + 1];
            for domain in 0..narrow(self.tables[fine].len()) {
                let parent = self.tables[fine].members(domain).first();
                let parent = parent.map_or(NO_DOMAIN, |node| self.tables[coarse].domain_of[node.at()]);
                if parent != NO_DOMAIN {
                    offsets[parent as usize + 1] = domain + 1;
                }
            }
            let mut before = 0;
            for offset in &mut offsets {
                before = before.max(*offset);
                *offset = before;
            }
            self.tables[coarse].finer = u8::try_from(fine).ok().map(|fine| (fine, offsets));
        }
    }

    /// Whether every domain of `fine` lies within one domain of `coarse`.
    fn nested(&self, fine: usize, coarse: usize) -> bool {
        let (fine, coarse) = (&self.tables[fine], &self.tables[coarse]);
        (0..narrow(fine.len())).all(|domain| {
            let members = fine.members(domain);
            // A fleet may have no nodes yet.
            let Some(first) = members.first().map(|node| coarse.domain_of[node.at()]) else { return true };
            first != NO_DOMAIN && members.iter().all(|node| coarse.domain_of[node.at()] == first)
        })
    }

    fn search_orders(&self) -> Vec<SearchOrder> {
        let levels = || std::iter::once(None).chain(Level::ALL.into_iter().map(Some));
        // From small domains to large ones; of equal ones the fabric first: it is what makes nearness fast.
        let mut by_size: Vec<usize> = (0..self.tables.len()).collect();
        by_size.sort_by_key(|&table| {
            let level = self.tables[table].level;
            (std::cmp::Reverse(self.tables[table].len()), level.map_or(0, |level| 7 - level as usize))
        });
        let nested: Vec<Vec<bool>> = (0..self.tables.len())
            .map(|fine| (0..self.tables.len()).map(|coarse| self.nested(fine, coarse)).collect())
            .collect();
        let mut orders = Vec::with_capacity(64);
        for within in levels() {
            let outer = self.table_within(within);
            for prefer in levels() {
                let inner = prefer.and_then(|level| self.table_of(level));
                let allowed = |table: &usize| outer.is_some_and(|outer| nested[*table][outer]);
                let mut tables: Vec<usize> = Vec::new();
                if let Some(inner) = inner {
                    tables.extend(by_size.iter().filter(|table| nested[**table][inner]).filter(|table| allowed(table)));
                }
                let rest: Vec<usize> = by_size
                    .iter()
                    .copied()
                    .filter(|table| !tables.contains(table))
                    .filter(|table| allowed(table))
                    .collect();
                tables.extend(rest);
                orders.push(SearchOrder {
                    tables: tables.into_iter().filter_map(|table| u8::try_from(table).ok()).collect(),
                });
            }
        }
        orders
    }
}

/// The chain of domains a node is in, by level.
fn path(domains: &[DomainSpec], topology: DomainId, fabric: Option<DomainId>) -> [u32; 7] {
    let mut path = [NO_DOMAIN; 7];
    for finest in [Some(topology), fabric] {
        let mut at = finest;
        // As many steps as there are levels: a longer chain is a cycle, which is refused before.
        for _ in 0..Level::ALL.len() {
            let Some(domain) = at else { break };
            let Some(spec) = domains.get(domain.0 as usize) else { break };
            path[spec.level as usize] = domain.0;
            at = spec.parent;
        }
    }
    path
}

fn level_table(level: Level, paths: &[[u32; 7]]) -> LevelTable {
    let at = level as usize;
    let first = if level.is_fabric() { Level::Spine as usize } else { 0 };
    let mut nodes: Vec<NodeIx> =
        (0..paths.len()).map(NodeIx::new).filter(|node| paths[node.at()][at] != NO_DOMAIN).collect();
    nodes.sort_by(|left, right| (&paths[left.at()][first..=at], left).cmp(&(&paths[right.at()][first..=at], right)));
    let mut table = LevelTable {
        level: Some(level),
        domain_of: vec![NO_DOMAIN; paths.len()],
        offsets: Vec::new(),
        members: nodes,
        ids: Vec::new(),
        finer: None,
    };
    for (place, node) in table.members.iter().enumerate() {
        let id = DomainId(paths[node.at()][at]);
        if table.ids.last() != Some(&id) {
            table.offsets.push(narrow(place));
            table.ids.push(id);
        }
        table.domain_of[node.at()] = narrow(table.ids.len() - 1);
    }
    table.offsets.push(narrow(table.members.len()));
    table
}

fn whole_fleet(nodes: usize) -> LevelTable {
    LevelTable {
        level: None,
        domain_of: vec![0; nodes],
        offsets: vec![0, narrow(nodes)],
        members: (0..nodes).map(NodeIx::new).collect(),
        ids: Vec::new(),
        finer: None,
    }
}
