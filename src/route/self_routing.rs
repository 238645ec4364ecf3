//! Session ids that name the worker they belong to: no table, no announcement, no race.
//!
//! The preload makes Engine.IO's ids so (`src/preload/sessions.js` writes what is read here). As
//! long as Engine.IO's own, of the same alphabet:
//!
//! ```text
//!  0            13 14       16 17       19
//! ┌───────────────┬───────────┬───────────┐   base64url, 6 bits a character
//! │ random, 84 b  │ slot 10 b │ check 18 b│
//! │               │ gener. 8 b│           │
//! └───────────────┴───────────┴───────────┘
//! ```
//!
//! The check (FNV-1a over what stands before it, folded) tells such an id from a foreign one; it is
//! no secret. Who forges one reaches a worker that does not know the session, as with any id.

use super::WorkerId;

/// Characters of such an id.
pub const LENGTH: usize = 20;
const RANDOM: usize = 14;
const CHECKED: usize = 17;

/// The worker an id names. Of the generation only the last 8 bits are known: a slot holds at most
/// a draining worker and its successor, which differ in the last of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    slot: u16,
    generation: u8,
}

impl Named {
    /// The seat to look in: [`WorkerId::seat`].
    #[must_use]
    pub fn seat(self) -> usize {
        WorkerId { slot: self.slot, generation: u32::from(self.generation) }.seat()
    }

    /// Whether `worker` is the one.
    #[must_use]
    pub fn is(self, worker: WorkerId) -> bool {
        self.slot == worker.slot && u32::from(self.generation) == worker.generation & 0xff
    }
}

/// The worker that `sid` names, or `None` for an id that names none.
#[must_use]
pub fn named(sid: &[u8]) -> Option<Named> {
    let sid: &[u8; LENGTH] = sid.try_into().ok()?;
    let check = digits(&sid[CHECKED..])?;
    if check != check_of(&sid[..CHECKED]) {
        return None;
    }
    let name = digits(&sid[RANDOM..CHECKED])?;
    let slot = u16::try_from(name >> 8).ok()?;
    Some(Named { slot, generation: name.to_le_bytes()[0] })
}

fn digits(text: &[u8]) -> Option<u32> {
    text.iter().try_fold(0, |value: u32, byte| {
        let digit = VALUES[usize::from(*byte)];
        (digit < 64).then(|| value << 6 | u32::from(digit))
    })
}

/// FNV-1a (Fowler, Noll, Vo), 32 bits, the high half folded into the low, then the top 18 bits.
fn check_of(text: &[u8]) -> u32 {
    let hash = text
        .iter()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    (hash ^ (hash >> 15)) >> 14
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// By character: its value, or 64 for one that is not of the alphabet.
const VALUES: [u8; 256] = {
    let mut values = [64; 256];
    let mut value = 0;
    while value < 64 {
        values[ALPHABET[value as usize] as usize] = value;
        value += 1;
    }
    values
};

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What the preload makes of 14 random characters.
    pub(crate) fn made(random: &[u8; RANDOM], worker: WorkerId) -> Vec<u8> {
        let mut sid = random.to_vec();
        write(&mut sid, u32::from(worker.slot) << 8 | (worker.generation & 0xff));
        let check = check_of(&sid);
        write(&mut sid, check);
        sid
    }

    fn write(sid: &mut Vec<u8>, value: u32) {
        for shift in [12, 6, 0] {
            sid.push(ALPHABET[usize::try_from(value >> shift & 63).expect("6 bits")]);
        }
    }

    const RANDOM_14: &[u8; 14] = b"k3v8dVx1x5wrRw";

    #[test]
    fn an_id_names_its_worker() {
        for slot in [0, 1, 63, 64, 1023] {
            for generation in [1, 2, 255, 256, 257, 70_000] {
                let worker = WorkerId { slot, generation };
                let sid = made(RANDOM_14, worker);
                assert_eq!(sid.len(), LENGTH);
                let named = named(&sid).expect("is one");
                assert!(named.is(worker));
                assert_eq!(named.seat() / 2, usize::from(slot));
                assert!(!named.is(WorkerId { slot, generation: generation + 1 }));
                assert!(!named.is(WorkerId { slot: slot ^ 1, generation }));
            }
        }
    }

    /// One id written by the preload, in both directions.
    #[test]
    fn the_check_is_the_preloads() {
        let sid = made(RANDOM_14, WorkerId { slot: 5, generation: 3 });
        assert_eq!(sid, b"k3v8dVx1x5wrRwAUDaCs", "{}", String::from_utf8_lossy(&sid));
    }

    #[test]
    fn foreign_ids_name_nobody() {
        let sid = made(RANDOM_14, WorkerId { slot: 5, generation: 3 });
        for index in 0..LENGTH {
            let mut changed = sid.clone();
            changed[index] = if changed[index] == b'A' { b'B' } else { b'A' };
            assert_eq!(named(&changed), None, "character {index}");
            changed[index] = b'=';
            assert_eq!(named(&changed), None, "character {index}");
        }
        assert_eq!(named(&sid[..19]), None);
        assert_eq!(named(b""), None);
        let mut passed = 0;
        for n in 0..200_000_u64 {
            let mut other: Vec<u8> = sid.clone();
            for (index, byte) in other.iter_mut().enumerate() {
                let value = super::super::hash(&(n * 32 + index as u64).to_le_bytes()) & 63;
                *byte = ALPHABET[usize::try_from(value).expect("6 bits")];
            }
            passed += u32::from(named(&other).is_some());
        }
        assert!(passed < 10, "{passed} of 200,000 foreign ids pass; 0.8 are to be expected");
    }
}
