//! One level of the tree, and what stands below it.

use std::collections::HashMap;
use std::rc::Rc;

use foldhash::fast::FixedState;
use slotmap::SlotMap;
use smallvec::SmallVec;

use super::{GroupKey, NodeKey, Subscriber};
use crate::broker::budget::ALLOCATION_BYTES;

#[derive(Debug)]
pub(super) struct Node {
    pub(super) parent: NodeKey,
    pub(super) level: Rc<str>,
    pub(super) children: Children,
    pub(super) plus: Option<NodeKey>,
    pub(super) hash: Option<NodeKey>,
    pub(super) subscribers: Vec<Subscriber>,
    pub(super) groups: SmallVec<[GroupKey; 1]>,
}

/// The levels below a node that are no wildcards: few are looked through, many are hashed.
#[derive(Debug)]
pub(super) enum Children {
    Few(SmallVec<[NodeKey; 2]>),
    #[allow(
        clippy::box_collection,
        reason = "most nodes have few children, and should be no larger for the others"
    )]
    Many(Box<HashMap<Rc<str>, NodeKey, FixedState>>),
}

/// Above this many children of one node a hash table is quicker.
const FEW_CHILDREN_MAX: usize = 8;

/// What a node costs with its level's text, its entry among the children of another, and the room tables grow into.
pub(super) const NODE_BYTES: usize = size_of::<Node>() * 3 / 2 + 2 * ALLOCATION_BYTES + 48;

impl Node {
    pub(super) fn new(parent: NodeKey, level: Rc<str>) -> Self {
        Self {
            parent,
            level,
            children: Children::default(),
            plus: None,
            hash: None,
            subscribers: Vec::new(),
            groups: SmallVec::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.subscribers.is_empty()
            && self.groups.is_empty()
            && self.plus.is_none()
            && self.hash.is_none()
            && self.children.is_empty()
    }
}

impl Default for Children {
    fn default() -> Self {
        Self::Few(SmallVec::new())
    }
}

impl Children {
    pub(super) fn get(&self, nodes: &SlotMap<NodeKey, Node>, level: &str) -> Option<NodeKey> {
        match self {
            Self::Few(few) => few.iter().copied().find(|&child| &*nodes[child].level == level),
            Self::Many(many) => many.get(level).copied(),
        }
    }

    pub(super) fn insert(
        &mut self,
        nodes: &SlotMap<NodeKey, Node>,
        level: Rc<str>,
        child: NodeKey,
        hasher: FixedState,
    ) {
        match self {
            Self::Few(few) if few.len() < FEW_CHILDREN_MAX => few.push(child),
            Self::Few(few) => {
                let mut many = HashMap::with_hasher(hasher);
                many.extend(few.iter().map(|&child| (nodes[child].level.clone(), child)));
                many.insert(level, child);
                *self = Self::Many(Box::new(many));
            }
            Self::Many(many) => {
                many.insert(level, child);
            }
        }
    }

    pub(super) fn remove(&mut self, level: &str, child: NodeKey) {
        match self {
            Self::Few(few) => few.retain(|&mut other| other != child),
            Self::Many(many) => {
                many.remove(level);
                if many.is_empty() {
                    *self = Self::default();
                }
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Few(few) => few.is_empty(),
            Self::Many(many) => many.is_empty(),
        }
    }
}
