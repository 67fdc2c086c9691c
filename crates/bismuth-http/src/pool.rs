//! Idle connections of one worker thread, kept by upstream.
//!
//! ```text
//! Pool<K> ── shelf per upstream ── [idle, idle, idle]   newest last, taken first
//!    ▲ checkout: probed, fresh enough         │
//!    └────────── Lease::finish ◄── Lease ◄────┘         dropped unfinished: the connection closes
//! ```
//!
//! The idle limit must stay below the upstream's own: whoever closes first must be us, or a request meets a connection
//! that the upstream is just closing.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use crate::client::Connection;

/// A connection that was in use this recently is taken without asking its socket: an end within so short a time
/// is noticed by its driver in the same turn of the loop. It saves a system call per request under load.
const PROBE_AFTER: Duration = Duration::from_millis(5);

/// How much a pool keeps.
#[derive(Debug, Clone, Copy)]
pub struct PoolLimits {
    /// Idle connections per upstream.
    pub max_idle_per_key: usize,
    /// Idle connections altogether.
    pub max_idle: usize,
    /// How long one may be idle. Must be shorter than the upstream keeps it.
    pub idle_timeout: Duration,
}

impl Default for PoolLimits {
    /// 256 per upstream, 4096 altogether, 30 s: our own servers keep an idle connection for 75 s.
    fn default() -> Self {
        PoolLimits {
            max_idle_per_key: 256,
            max_idle: 4096,
            idle_timeout: Duration::from_secs(30),
        }
    }
}

/// Idle connections by upstream. Cloning shares them.
#[derive(Debug)]
pub struct Pool<K> {
    inner: Rc<Inner<K>>,
}

impl<K> Clone for Pool<K> {
    fn clone(&self) -> Self {
        Pool {
            inner: self.inner.clone(),
        }
    }
}

#[derive(Debug)]
struct Inner<K> {
    shelves: RefCell<HashMap<K, Rc<Shelf>>>,
    stock: Rc<Stock>,
}

/// What all shelves of a pool share.
#[derive(Debug)]
struct Stock {
    limits: PoolLimits,
    idle: Cell<usize>,
}

/// The idle connections to one upstream, oldest first.
#[derive(Debug)]
pub(crate) struct Shelf {
    stock: Rc<Stock>,
    idle: RefCell<VecDeque<Connection>>,
}

impl<K: Eq + Hash + Clone> Pool<K> {
    /// An empty pool.
    pub fn new(limits: PoolLimits) -> Self {
        let stock = Rc::new(Stock {
            limits,
            idle: Cell::new(0),
        });
        Pool {
            inner: Rc::new(Inner {
                shelves: RefCell::default(),
                stock,
            }),
        }
    }

    /// The most recently used idle connection that is still good.
    pub fn checkout(&self, key: &K) -> Option<Lease> {
        let shelf = self.inner.shelves.borrow().get(key)?.clone();
        let connection = shelf.take()?;
        Some(Lease {
            connection,
            shelf: Rc::downgrade(&shelf),
        })
    }

    /// Lends out a new connection, which comes to this pool when it is finished with.
    pub fn adopt(&self, key: K, connection: Connection) -> Lease {
        let mut shelves = self.inner.shelves.borrow_mut();
        let shelf = shelves.entry(key).or_insert_with(|| {
            Rc::new(Shelf {
                stock: self.inner.stock.clone(),
                idle: RefCell::default(),
            })
        });
        Lease {
            connection,
            shelf: Rc::downgrade(shelf),
        }
    }

    /// Closes the idle connections of an upstream that is gone; those lent out close when they are finished with.
    pub fn forget(&self, key: &K) {
        self.inner.shelves.borrow_mut().remove(key);
    }

    /// Closes what was idle too long or has ended. To be called now and then; [`Pool::keep_swept`] does.
    pub fn sweep(&self) {
        self.inner.shelves.borrow_mut().retain(|_, shelf| {
            shelf.sweep();
            // A shelf with nothing on it stays only while it is new or its connections are out, which
            // the next sweep finds again: an empty one is cheap and one per upstream.
            !shelf.idle.borrow().is_empty() || Rc::weak_count(shelf) > 0
        });
    }

    /// Sweeps for ever, twice per idle timeout.
    pub async fn keep_swept(self) {
        loop {
            tokio::time::sleep(self.inner.stock.limits.idle_timeout / 2).await;
            self.sweep();
        }
    }

    /// How many idle connections there are.
    pub fn idle(&self) -> usize {
        self.inner.stock.idle.get()
    }
}

impl Shelf {
    fn is_usable(&self, connection: &Connection, now: Instant) -> bool {
        let idle_for = now.saturating_duration_since(connection.idle_since);
        idle_for < self.stock.limits.idle_timeout
            && connection.is_ready()
            && (idle_for < PROBE_AFTER || connection.is_quiet())
    }

    fn take(&self) -> Option<Connection> {
        let now = Instant::now();
        let mut idle = self.idle.borrow_mut();
        while let Some(connection) = idle.pop_back() {
            self.stock.idle.set(self.stock.idle.get() - 1);
            if self.is_usable(&connection, now) {
                return Some(connection);
            }
        }
        None
    }

    fn put(&self, mut connection: Connection) {
        let limits = &self.stock.limits;
        let mut idle = self.idle.borrow_mut();
        if idle.len() >= limits.max_idle_per_key || self.stock.idle.get() >= limits.max_idle {
            return;
        }
        connection.idle_since = Instant::now();
        idle.push_back(connection);
        self.stock.idle.set(self.stock.idle.get() + 1);
    }

    fn sweep(&self) {
        let now = Instant::now();
        let limit = self.stock.limits.idle_timeout;
        let mut idle = self.idle.borrow_mut();
        let before = idle.len();
        idle.retain(|connection| {
            !connection.is_closed() && now.saturating_duration_since(connection.idle_since) < limit
        });
        let gone = before - idle.len();
        self.stock.idle.set(self.stock.idle.get() - gone);
    }
}

impl Drop for Shelf {
    fn drop(&mut self) {
        let idle = self.idle.get_mut().len();
        self.stock.idle.set(self.stock.idle.get() - idle);
    }
}

/// The use of one connection for one exchange.
#[derive(Debug)]
pub struct Lease {
    connection: Connection,
    shelf: Weak<Shelf>,
}

impl Lease {
    /// A connection that belongs to no pool and closes after its exchange.
    pub fn unpooled(connection: Connection) -> Self {
        Lease {
            connection,
            shelf: Weak::new(),
        }
    }

    pub(crate) fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// The exchange is over. A connection whose request was not read to its end, or that the upstream
    /// wants closed, is not ready and closes.
    pub(crate) fn finish(self) {
        if let Some(shelf) = self.shelf.upgrade()
            && self.connection.is_ready()
        {
            shelf.put(self.connection);
        }
    }
}
