//! Cuts the byte stream of one worker's channel into frames.
//!
//! Owns the bytes of the one frame that has not wholly arrived, and the bound on it. A frame comes out
//! verbatim, prefix and all, because most frames are relayed as they are; what it means is asked
//! elsewhere ([`super::message::read`]). It refuses to believe a length before its bytes are there: memory
//! grows with what has arrived, never with what a worker announces.

use bytes::Bytes;
use memchr::memchr;

use super::Serialization;

/// The longest frame a worker may send, in bytes of payload. Beyond it: [`FrameError::TooLong`].
pub const MAX_FRAME: usize = 64 << 20;

/// How much is allocated ahead of the bytes that have arrived, in bytes, before growth is by doubling.
/// One read of a channel; nearly every frame is shorter, and is then allocated once at its exact size.
const AHEAD: usize = 64 << 10;

/// Bytes of the big-endian length in front of an advanced frame; not counted in that length.
pub(crate) const LENGTH_PREFIX: usize = 4;

/// Why a channel cannot be read any further. The worker's fault.
#[derive(Debug, PartialEq, Eq, Clone, Copy, thiserror::Error)]
pub enum FrameError {
    /// A frame longer than the channel's bound. For a line, `got` is what had arrived of it.
    #[error("frame too long: {got} bytes > {max}")]
    TooLong {
        /// Bytes of payload.
        got: u64,
        /// The bound.
        max: usize,
    },
    /// An advanced frame whose payload does not start as V8's serialization does. Said at once,
    /// because the four bytes taken for a length would be waited for in vain.
    #[error(
        "frame starts with byte {got:#04x}, V8's serialization with 0xff; \
         a worker that is not Node (Bun) speaks `json` only"
    )]
    NotV8 {
        /// The payload's first byte.
        got: u8,
    },
}

/// Cuts a byte stream of one worker's channel into frames. Fed with chunks as they come from the kernel.
#[derive(Debug)]
pub struct Deframer {
    serialization: Serialization,
    max_frame: usize,
    /// The unfinished frame's bytes so far. Never holds a whole frame between two calls, and when it
    /// holds a length prefix, that length is within the bound.
    partial: Vec<u8>,
    broken: Option<FrameError>,
}

impl Deframer {
    /// A deframer at the start of a stream, for payloads of at most `max_frame` bytes.
    pub fn new(serialization: Serialization, max_frame: usize) -> Self {
        Self { serialization, max_frame, partial: Vec::new(), broken: None }
    }

    /// Adds a chunk and hands every whole frame to `each`, in order.
    ///
    /// A frame is complete and verbatim: length prefix and payload (advanced) or a line with its LF
    /// (json), so that it can be relayed as it is. It is copied once out of `chunk`. Empty lines
    /// are skipped, and so is the byte 0x02 that Bun puts in front of its own messages.
    ///
    /// # Errors
    /// Frames before the fault have been handed on. After an error the stream cannot be read any
    /// further: every later call returns the same error.
    pub fn feed(&mut self, chunk: &[u8], each: &mut dyn FnMut(Bytes)) -> Result<(), FrameError> {
        if let Some(error) = self.broken {
            return Err(error);
        }
        let outcome = match self.serialization {
            Serialization::Advanced => self.feed_advanced(chunk, each),
            Serialization::Json => self.feed_json(chunk, each),
        };
        if let Err(error) = outcome {
            self.broken = Some(error);
            self.partial = Vec::new();
        }
        outcome
    }

    /// Bytes of an unfinished frame.
    pub fn buffered(&self) -> usize {
        self.partial.len()
    }

    /// The bytes of an unfinished frame; fed to a new deframer they make it go on from here.
    pub fn into_partial(self) -> Bytes {
        self.partial.into()
    }

    fn feed_advanced(
        &mut self,
        mut chunk: &[u8],
        each: &mut dyn FnMut(Bytes),
    ) -> Result<(), FrameError> {
        loop {
            if self.partial.is_empty() {
                // The common case: frames that lie whole in the chunk.
                while let Some(whole) = self.advanced_length(chunk)? {
                    let Some((frame, rest)) = chunk.split_at_checked(whole) else { break };
                    each(Bytes::copy_from_slice(frame));
                    chunk = rest;
                }
            }
            if chunk.is_empty() {
                return Ok(());
            }
            // Without a whole prefix, only the prefix is taken: then the length is known, and checked.
            let known = if self.partial.is_empty() { chunk } else { &self.partial };
            let wanted = self.advanced_length(known)?.unwrap_or(LENGTH_PREFIX);
            let missing = wanted.saturating_sub(self.partial.len());
            let (part, rest) = chunk.split_at_checked(missing).unwrap_or((chunk, &[]));
            chunk = rest;
            self.grow(part.len(), wanted);
            self.partial.extend_from_slice(part);
            if self.advanced_length(&self.partial)? == Some(self.partial.len()) {
                each(Bytes::from(std::mem::take(&mut self.partial)));
            }
        }
    }

    /// The whole length, prefix included, of the advanced frame that `bytes` start with; None when
    /// too few of them are there to tell.
    fn advanced_length(&self, bytes: &[u8]) -> Result<Option<usize>, FrameError> {
        let Some((prefix, payload)) = bytes.split_first_chunk::<LENGTH_PREFIX>() else {
            return Ok(None);
        };
        let got = u32::from_be_bytes(*prefix);
        let length = match usize::try_from(got) {
            Ok(length) if length <= self.max_frame => length,
            _ => return Err(FrameError::TooLong { got: u64::from(got), max: self.max_frame }),
        };
        match payload.first() {
            Some(&got) if length > 0 && got != super::v8::VERSION_TAG => {
                Err(FrameError::NotV8 { got })
            }
            _ => Ok(Some(length.saturating_add(LENGTH_PREFIX))),
        }
    }

    fn feed_json(
        &mut self,
        mut chunk: &[u8],
        each: &mut dyn FnMut(Bytes),
    ) -> Result<(), FrameError> {
        while let Some(end) = memchr(b'\n', chunk) {
            let Some((line, rest)) = chunk.split_at_checked(end.saturating_add(1)) else { break };
            chunk = rest;
            // The LF is not payload.
            self.check_line(line.len().saturating_sub(1))?;
            let skipped = |line: &[u8]| line.iter().take_while(|&&byte| byte == BUN_MARK).count();
            let frame = if self.partial.is_empty() {
                line.get(skipped(line)..).map(Bytes::copy_from_slice)
            } else {
                self.partial.extend_from_slice(line);
                let mut frame = Bytes::from(std::mem::take(&mut self.partial));
                let mark = skipped(&frame);
                Some(frame.split_off(mark))
            };
            if let Some(frame) = frame.filter(|frame| frame.len() > 1) {
                each(frame);
            }
        }
        self.check_line(chunk.len())?;
        self.partial.extend_from_slice(chunk);
        Ok(())
    }

    /// Whether `more` bytes still fit into the line that `partial` begins.
    fn check_line(&self, more: usize) -> Result<(), FrameError> {
        let length = self.partial.len().saturating_add(more);
        if length <= self.max_frame {
            return Ok(());
        }
        Err(FrameError::TooLong {
            got: u64::try_from(length).unwrap_or(u64::MAX),
            max: self.max_frame,
        })
    }

    /// Makes room for `more` bytes of a frame that will have `whole`, or for a bounded part of it.
    fn grow(&mut self, more: usize, whole: usize) {
        let needed = self.partial.len().saturating_add(more);
        if needed > self.partial.capacity() {
            let capacity = whole.min(needed.saturating_mul(2).max(AHEAD));
            self.partial.reserve_exact(capacity.saturating_sub(self.partial.len()));
        }
    }
}

/// Bun's mark for an internal message.
const BUN_MARK: u8 = 0x02;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::Serialization::{Advanced, Json};

    fn advanced(payload: &[u8]) -> Vec<u8> {
        let mut frame = u32::try_from(payload.len() + 2).unwrap().to_be_bytes().to_vec();
        frame.extend([0xff, 0x0f]);
        frame.extend(payload);
        frame
    }

    /// Feeds chunk after chunk; the frames that came out, and how it ended.
    fn feed(deframer: &mut Deframer, chunks: &[&[u8]]) -> (Vec<Vec<u8>>, Result<(), FrameError>) {
        let mut frames = Vec::new();
        for chunk in chunks {
            let outcome = deframer.feed(chunk, &mut |frame| frames.push(frame.to_vec()));
            if outcome.is_err() {
                return (frames, outcome);
            }
        }
        (frames, Ok(()))
    }

    fn samples() -> [(Serialization, Vec<Vec<u8>>); 2] {
        let long = vec![b'x'; 300];
        [
            (
                Advanced,
                vec![advanced(b"0"), vec![0; 4], advanced(&long), advanced(b""), advanced(b"T")],
            ),
            (
                Json,
                vec![
                    b"null\n".to_vec(),
                    b"{\"a\":\"\xe2\x82\xac\"}\n".to_vec(),
                    [&long[..], b"\n"].concat(),
                ],
            ),
        ]
    }

    #[test]
    fn frames_come_out_whole_wherever_the_stream_is_split() {
        for (serialization, frames) in samples() {
            let stream = frames.concat();
            for split in 0..=stream.len() {
                let mut deframer = Deframer::new(serialization, MAX_FRAME);
                let (head, tail) = stream.split_at(split);
                assert_eq!(feed(&mut deframer, &[head, tail]), (frames.clone(), Ok(())), "{split}");
                assert_eq!(deframer.buffered(), 0);
            }
            let bytes: Vec<&[u8]> = stream.chunks(1).collect();
            let mut deframer = Deframer::new(serialization, MAX_FRAME);
            assert_eq!(feed(&mut deframer, &bytes), (frames.clone(), Ok(())));
        }
    }

    #[test]
    fn an_unfinished_frame_is_counted_and_kept_back() {
        for (serialization, frames) in samples() {
            let mut deframer = Deframer::new(serialization, MAX_FRAME);
            let (last, whole) = frames.split_last().unwrap();
            let stream = [&whole.concat()[..], &last[..last.len() - 1]].concat();
            assert_eq!(feed(&mut deframer, &[&stream]), (whole.to_vec(), Ok(())));
            assert_eq!(deframer.buffered(), last.len() - 1);
        }
    }

    #[test]
    fn lines_lose_what_is_not_theirs() {
        let mut deframer = Deframer::new(Json, MAX_FRAME);
        let stream = b"\n\n\x02{}\n\x02\n\n\x02[\x02]\n";
        let expected = vec![b"{}\n".to_vec(), b"[\x02]\n".to_vec()];
        for split in 0..=stream.len() {
            let (head, tail) = stream.split_at(split);
            assert_eq!(feed(&mut deframer, &[head, tail]), (expected.clone(), Ok(())), "{split}");
        }
    }

    #[test]
    fn a_length_over_the_bound_ends_the_stream() {
        let good = advanced(b"0");
        for got in [u32::try_from(MAX_FRAME).unwrap() + 1, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
            let expected = FrameError::TooLong { got: u64::from(got), max: MAX_FRAME };
            let stream = [&good[..], &got.to_be_bytes()[..]].concat();
            for split in 0..=stream.len() {
                let mut deframer = Deframer::new(Advanced, MAX_FRAME);
                let (head, tail) = stream.split_at(split);
                assert_eq!(feed(&mut deframer, &[head, tail]), (vec![good.clone()], Err(expected)));
                // What comes later is not read, though it be sound.
                assert_eq!(feed(&mut deframer, &[&good]), (vec![], Err(expected)));
                assert_eq!(deframer.buffered(), 0);
            }
            assert!(expected.to_string().contains(&got.to_string()), "{expected}");
        }
    }

    #[test]
    fn the_bound_is_exact() {
        let fits = advanced(&[b'_'; 98]);
        let over = advanced(&[b'_'; 99]);
        assert_eq!(feed(&mut Deframer::new(Advanced, 100), &[&fits]), (vec![fits.clone()], Ok(())));
        let error = FrameError::TooLong { got: 101, max: 100 };
        assert_eq!(feed(&mut Deframer::new(Advanced, 100), &[&over]), (vec![], Err(error)));

        let fits = [&[b'1'; 100][..], b"\n"].concat();
        let over = [&[b'1'; 101][..], b"\n"].concat();
        for split in 0..fits.len() {
            let chunks = [&fits[..split], &fits[split..]];
            let outcome = feed(&mut Deframer::new(Json, 100), &chunks);
            assert_eq!(outcome, (vec![fits.clone()], Ok(())), "{split}");
            let chunks = [&over[..split], &over[split..]];
            let outcome = feed(&mut Deframer::new(Json, 100), &chunks);
            assert_eq!(outcome, (vec![], Err(error)), "{split}");
        }
        // A line that never ends is refused before it does.
        let outcome = feed(&mut Deframer::new(Json, 100), &[&[b'1'; 60], &[b'1'; 60]]);
        assert_eq!(outcome.1, Err(FrameError::TooLong { got: 120, max: 100 }));
    }

    #[test]
    fn what_is_not_v8_is_said_at_once() {
        // As Bun starts in its own `advanced`: taken for a length, 16 MiB to wait for.
        let bun = [1, 2, 0, 0, 0];
        for split in 0..bun.len() {
            let mut deframer = Deframer::new(Advanced, MAX_FRAME);
            let outcome = feed(&mut deframer, &[&bun[..split], &bun[split..]]);
            assert_eq!(outcome, (vec![], Err(FrameError::NotV8 { got: 0 })));
        }
    }

    #[test]
    fn memory_follows_the_bytes_not_the_announcement() {
        let mut deframer = Deframer::new(Advanced, MAX_FRAME);
        let announced = 60u32 << 20;
        let mut chunk = announced.to_be_bytes().to_vec();
        chunk.extend([0xff, 0x0f]);
        assert_eq!(feed(&mut deframer, &[&chunk]), (vec![], Ok(())));
        assert!(deframer.partial.capacity() <= AHEAD);
        for _ in 0..100 {
            assert_eq!(feed(&mut deframer, &[&[0; 10_000]]), (vec![], Ok(())));
            assert!(deframer.partial.capacity() <= AHEAD.max(2 * deframer.buffered()));
        }
    }

    #[test]
    fn any_chunking_gives_the_same_frames() {
        bolero::check!().with_type::<(bool, Vec<u8>, Vec<u8>)>().for_each(|(json, seed, cuts)| {
            let (serialization, stream) = if *json {
                (Json, seed.iter().map(|b| if b % 5 == 0 { b'\n' } else { b % 8 }).collect())
            } else {
                (Advanced, seed.iter().flat_map(|b| advanced(&vec![*b; usize::from(*b)])).collect())
            };
            let stream: Vec<u8> = stream;
            let whole = feed(&mut Deframer::new(serialization, 100), &[&stream]);
            let mut chunks = Vec::new();
            let mut rest = &stream[..];
            for cut in cuts {
                let (head, tail) = rest.split_at(usize::from(*cut).min(rest.len()));
                chunks.push(head);
                rest = tail;
            }
            chunks.push(rest);
            let parts = feed(&mut Deframer::new(serialization, 100), &chunks);
            assert_eq!(parts.0, whole.0);
            assert_eq!(parts.1.is_err(), whole.1.is_err());
        });
    }

    #[test]
    fn any_bytes_are_survived() {
        bolero::check!().with_type::<Vec<Vec<u8>>>().for_each(|chunks| {
            for serialization in [Advanced, Json] {
                let chunks: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
                let (frames, _) = feed(&mut Deframer::new(serialization, 1 << 16), &chunks);
                assert!(frames.concat().len() <= chunks.concat().len());
            }
        });
    }
}
