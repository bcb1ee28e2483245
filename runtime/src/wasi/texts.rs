//! Texts between the host and the guest's memory: paths, arguments, the environment.

use wasmtime_wasi::p1::types::{self, Errno};
use wiggle::{GuestMemory, GuestPtr};

type Memory<'a, 'b> = &'a mut GuestMemory<'b>;
type Result<T, E = types::Error> = std::result::Result<T, E>;

pub(super) fn text(memory: &GuestMemory<'_>, pointer: GuestPtr<str>) -> Result<String> {
    if usize::try_from(pointer.len()).is_ok_and(|length| length > wardian_proto::PATH_BYTES_MAX) {
        return Err(Errno::Nametoolong.into());
    }
    Ok(memory.as_cow_str(pointer)?.into_owned())
}

/// Writes as much of `bytes` as there is room for and returns how much that was.
pub(super) fn put(memory: Memory<'_, '_>, room: GuestPtr<[u8]>, bytes: &[u8]) -> Result<types::Size> {
    let length = room.len().min(types::Size::try_from(bytes.len()).unwrap_or(types::Size::MAX));
    let part = room.get_range(0..length).expect("it is no longer than the room");
    memory.copy_from_slice(&bytes[..length as usize], part)?;
    Ok(length)
}

/// Writes texts one behind the other, and where each of them starts.
pub(super) fn put_texts(
    memory: Memory<'_, '_>,
    texts: &[bytes::Bytes],
    mut place: GuestPtr<GuestPtr<u8>>,
    mut room: GuestPtr<u8>,
) -> Result<()> {
    for text in texts {
        let length = u32::try_from(text.len()).map_err(|_| Errno::Overflow)?;
        memory.write(place, room)?;
        memory.copy_from_slice(text, room.as_array(length))?;
        place = place.add(1)?;
        room = room.add(length)?;
    }
    Ok(())
}

pub(super) fn sizes(texts: &[bytes::Bytes]) -> Result<(types::Size, types::Size)> {
    let bytes: usize = texts.iter().map(bytes::Bytes::len).sum();
    let size = |number: usize| types::Size::try_from(number).map_err(|_| Errno::Overflow);
    Ok((size(texts.len())?, size(bytes)?))
}
