//! How a worker and the processes that run commands for it frame what they say to each other: a length, then so many bytes.

use std::io::{self, Read};

use prost::Message;

/// Size of one message. Arguments and environment, which have a limit of their own, take most of a request.
pub(super) const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// A message with its length before it.
pub(super) fn encode(message: &impl Message) -> io::Result<Vec<u8>> {
    let bytes = message.encode_to_vec();
    let length = u32::try_from(bytes.len()).ok().filter(|length| checked(*length).is_ok());
    let length =
        length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the message is too large"))?;
    Ok([&length.to_le_bytes()[..], &bytes].concat())
}

/// Reads a message.
pub(super) fn receive<M: Message + Default>(from: &mut impl Read) -> io::Result<M> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let mut bytes = vec![0; checked(u32::from_le_bytes(length))?];
    from.read_exact(&mut bytes)?;
    M::decode(&*bytes).map_err(io::Error::other)
}

/// A length that came in, if a message may have it.
pub(super) fn checked(length: u32) -> io::Result<usize> {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > MESSAGE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the message is too large"));
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_socket_and_what_is_none_is_refused() {
        let message = "a".to_owned();
        assert_eq!(receive::<String>(&mut &*encode(&message).unwrap()).unwrap(), message);
        assert!(encode(&vec![0_u8; MESSAGE_BYTES_MAX]).is_err());
        assert!(receive::<String>(&mut &[255, 255, 255, 255][..]).is_err());
        assert!(receive::<String>(&mut &[9, 0, 0, 0, 1][..]).is_err());
    }
}
