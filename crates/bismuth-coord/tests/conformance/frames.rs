//! Counts the packets in a stream of ZooKeeper's protocol.

/// Follows one direction of a connection, in pieces of any size. A packet is a length, and then an xid.
#[derive(Default)]
pub struct Frames {
    head: Vec<u8>,
    body_left: usize,
}

const HEAD_BYTES: usize = 8;

impl Frames {
    /// How many (answers to) requests begin in this piece: packets that are no ping (-2) and no event (-1).
    pub fn requests_in(&mut self, mut piece: &[u8]) -> usize {
        let mut requests = 0;
        while !piece.is_empty() {
            let skipped = piece.len().min(self.body_left);
            self.body_left -= skipped;
            piece = &piece[skipped..];
            let taken = piece.len().min(HEAD_BYTES - self.head.len());
            self.head.extend_from_slice(&piece[..taken]);
            piece = &piece[taken..];
            if let Ok(head) = <[u8; HEAD_BYTES]>::try_from(&self.head[..]) {
                let number = u64::from_be_bytes(head);
                self.body_left = (number >> 32) as usize - 4;
                requests += usize::from(number as u32 as i32 >= 0);
                self.head.clear();
            }
        }
        requests
    }
}
