//! The PROXY header under arbitrary bytes: any split gives the same header or the same error, and not a byte behind the
//! header is taken.
//!
//! The first byte of an input says how the rest is split.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::net::proxy::{BYTES_MAX, Header, HeaderError, Reader};

fuzz_target!(|input: &[u8]| {
    let [split, bytes @ ..] = input else {
        return;
    };
    let whole = read(std::iter::once(bytes));
    let pieces = read(bytes.chunks(usize::from(*split) + 1));
    assert_eq!(whole, pieces, "another split gives something else");
    if let Ok((taken, Some(header))) = whole {
        assert!(taken <= bytes.len().min(BYTES_MAX));
        let (header_only, _) = bytes.split_at(taken);
        assert_eq!(read(std::iter::once(header_only)), Ok((taken, Some(header))));
        let (cut, _) = bytes.split_at(taken - 1);
        assert!(
            matches!(read(std::iter::once(cut)), Ok((_, None))),
            "it was whole before"
        );
    }
});

fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Result<(usize, Option<Header>), HeaderError> {
    let mut reader = Reader::default();
    let mut taken = 0;
    for piece in pieces {
        let (now, header) = reader.take(piece)?;
        taken += now;
        if header.is_some() {
            return Ok((taken, header));
        }
        assert_eq!(now, piece.len(), "all is taken of a header that is not whole");
    }
    Ok((taken, None))
}
