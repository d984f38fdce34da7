//! Packets cut into fragments and put together again, as hosts do it.

/// The orders in which three fragments can come.
pub const ORDERS: [[usize; 3]; 6] = [
    [0, 1, 2],
    [2, 1, 0],
    [1, 0, 2],
    [1, 2, 0],
    [0, 2, 1],
    [2, 0, 1],
];

/// The parts of an IPv6 packet's payload, cut at these octets.
pub fn cut_v6(whole: &[u8], id: u32, cuts: &[usize]) -> Vec<Vec<u8>> {
    let end = whole.len() - 40;
    let bounds: Vec<usize> = [0].iter().chain(cuts).chain(&[end]).copied().collect();
    let part = |from: usize, to: usize| {
        let mut bytes = whole[..40].to_vec();
        bytes.extend_from_slice(&[whole[6], 0]);
        let field = u16::try_from(from).unwrap() | u16::from(to < end);
        bytes.extend_from_slice(&field.to_be_bytes());
        bytes.extend_from_slice(&id.to_be_bytes());
        bytes.extend_from_slice(&whole[40 + from..40 + to]);
        bytes[6] = 44;
        let len = u16::try_from(bytes.len() - 40).unwrap();
        bytes[4..6].copy_from_slice(&len.to_be_bytes());
        bytes
    };
    bounds
        .windows(2)
        .map(|pair| part(pair[0], pair[1]))
        .collect()
}

/// The same of an IPv4 packet.
pub fn cut_v4(whole: &[u8], id: u16, cuts: &[usize]) -> Vec<Vec<u8>> {
    let end = whole.len() - 20;
    let bounds: Vec<usize> = [0].iter().chain(cuts).chain(&[end]).copied().collect();
    let part = |from: usize, to: usize| {
        let mut bytes = whole[..20].to_vec();
        bytes.extend_from_slice(&whole[20 + from..20 + to]);
        let len = u16::try_from(bytes.len()).unwrap();
        bytes[2..4].copy_from_slice(&len.to_be_bytes());
        bytes[4..6].copy_from_slice(&id.to_be_bytes());
        let field = u16::try_from(from / 8).unwrap() | u16::from(to < end) << 13;
        bytes[6..8].copy_from_slice(&field.to_be_bytes());
        let header = etherparse::Ipv4Header::from_slice(&bytes).unwrap().0;
        bytes[10..12].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
        bytes
    };
    bounds
        .windows(2)
        .map(|pair| part(pair[0], pair[1]))
        .collect()
}

/// Puts IPv4 fragments together again, as the receiver would.
pub fn gather_v4(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut parts = parts.to_vec();
    parts.sort_by_key(|part| u16::from_be_bytes([part[6], part[7]]) & 0x1fff);
    let mut whole = parts[0][..20].to_vec();
    for part in &parts {
        let offset = usize::from(u16::from_be_bytes([part[6], part[7]]) & 0x1fff) * 8;
        assert_eq!(offset, whole.len() - 20, "no gap");
        let header = etherparse::Ipv4Header::from_slice(part).unwrap().0;
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        assert_eq!(part[4..6], parts[0][4..6], "one identification");
        whole.extend_from_slice(&part[20..]);
    }
    let last = parts.last().unwrap();
    assert_eq!(last[6] & 0x20, 0, "the last has no more behind it");
    let len = u16::try_from(whole.len()).unwrap();
    whole[2..4].copy_from_slice(&len.to_be_bytes());
    whole[6..8].fill(0);
    let header = etherparse::Ipv4Header::from_slice(&whole).unwrap().0;
    whole[10..12].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    whole
}

/// Puts IPv6 fragments together again.
pub fn gather_v6(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut parts = parts.to_vec();
    let field = |part: &[u8]| u16::from_be_bytes([part[42], part[43]]);
    parts.sort_by_key(|part| field(part) & !7);
    let mut whole = parts[0][..40].to_vec();
    whole[6] = parts[0][40];
    for part in &parts {
        assert_eq!(part[6], 44, "a fragment header");
        assert_eq!(usize::from(field(part) & !7), whole.len() - 40, "no gap");
        assert_eq!(part[44..48], parts[0][44..48], "one identification");
        whole.extend_from_slice(&part[48..]);
    }
    assert_eq!(field(parts.last().unwrap()) & 1, 0);
    let len = u16::try_from(whole.len() - 40).unwrap();
    whole[4..6].copy_from_slice(&len.to_be_bytes());
    whole
}
