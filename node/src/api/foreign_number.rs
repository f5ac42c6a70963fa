//! Sequence numbers as strangers send them: any of AWS's layouts (kinesis-contract 7.9), also the
//! old ones that this service never gives out, because AWS tells apart *invalid* and *not from this
//! stream*.

/// A decoded number of any known version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ForeignNumber {
    /// 0, 1 or 2.
    pub(super) version: u8,
    /// Second in which its shard was created.
    pub(super) creation_second: u64,
    /// Second of the record; 0 where the layout has none.
    pub(super) record_second: u64,
    /// Index of its shard; negative when the top bit of the field is set.
    pub(super) shard: i64,
}

/// Seconds from here on are invalid.
const CREATION_SECOND_END: u64 = 16_025_175_000;

/// Most significant hex digit first.
type Digits = [u8; 48];

impl ForeignNumber {
    /// Decodes decimal text; `None` when it is no number of a known version.
    pub(super) fn parse(text: &str) -> Option<ForeignNumber> {
        let digits = hex_digits(text)?;
        // The number as 48 hex digits: the newer layouts have 47, led by 2; the oldest has up to 31
        // below an implied 1.
        let leading = digits.iter().position(|&digit| digit != 0).unwrap_or(digits.len());
        let length = digits.len() - leading;
        let number = match (length, digits[1], digits[47]) {
            (0..=31, ..) => Self::oldest(&digits),
            // Below 2^129 with its leading one written out.
            (32, ..) if digits[16] == 1 => Self::oldest(&digits),
            // 2^185 up to half as much again.
            (47, 2, version @ (1 | 2)) => Self::newer(&digits, version),
            _ => return None,
        }?;
        (number.creation_second < CREATION_SECOND_END).then_some(number)
    }

    /// `1`, creation second (9), a byte, counter (16), shard index (4).
    fn oldest(digits: &Digits) -> Option<ForeignNumber> {
        Some(ForeignNumber {
            version: 0,
            creation_second: field(digits, 17..26),
            record_second: 0,
            shard: field(digits, 44..48) as i64,
        })
    }

    /// `2`, creation second (9), nibble, counter (16), byte, record second (9), shard index (8),
    /// version.
    fn newer(digits: &Digits, version: u8) -> Option<ForeignNumber> {
        (digits[12] <= 7).then(|| ForeignNumber {
            version,
            creation_second: field(digits, 2..11),
            record_second: field(digits, 30..39),
            shard: i64::from(field(digits, 39..47) as u32 as i32),
        })
    }

    /// The shard as AWS writes it, also when its index is negative.
    pub(super) fn shard_text(&self) -> String {
        format!("shardId-{:012}", self.shard)
    }
}

fn field(digits: &Digits, range: std::ops::Range<usize>) -> u64 {
    digits[range].iter().fold(0, |value, &digit| value << 4 | u64::from(digit))
}

/// Decimal text as 48 hex digits, `None` when it does not fit.
fn hex_digits(text: &str) -> Option<Digits> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let mut digits: Digits = [0; 48];
    for decimal in text.bytes() {
        let mut carry = u32::from(decimal - b'0');
        for digit in digits.iter_mut().rev() {
            let value = u32::from(*digit) * 10 + carry;
            *digit = (value & 0xf) as u8;
            carry = value >> 4;
        }
        if carry != 0 {
            return None;
        }
    }
    Some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tristream_proto::domain::{SequenceNumber, ShardId};

    #[test]
    fn our_own_numbers_decode_alike() {
        let ours = SequenceNumber {
            creation_second: 1_790_000_000,
            shard: ShardId::from(19),
            counter: 77,
            record_second: 1_790_000_050,
        };
        let number = ForeignNumber::parse(&ours.to_string()).unwrap();
        let expected = ForeignNumber {
            version: 2,
            creation_second: 1_790_000_000,
            record_second: 1_790_000_050,
            shard: 19,
        };
        assert_eq!(number, expected);
    }

    #[test]
    fn small_numbers_are_of_the_oldest_layout() {
        let number = ForeignNumber::parse("5").unwrap();
        assert_eq!((number.version, number.shard), (0, 5));
        assert_eq!(number.shard_text(), "shardId-000000000005");
        // 2^124, the oldest layout's zero, written out.
        let number = ForeignNumber::parse("21267647932558653966460912964485513216").unwrap();
        assert_eq!((number.version, number.shard, number.creation_second), (0, 0, 0));
    }

    fn decimal(hex: &str) -> String {
        // Long division by ten.
        let mut digits: Vec<u32> = hex.chars().map(|c| c.to_digit(16).unwrap()).collect();
        let mut out = Vec::new();
        while digits.iter().any(|&digit| digit != 0) {
            let mut rest = 0;
            for digit in &mut digits {
                let value = rest * 16 + *digit;
                *digit = value / 10;
                rest = value % 10;
            }
            out.push(char::from_digit(rest, 10).unwrap());
        }
        out.iter().rev().collect()
    }

    #[test]
    fn versions_and_fields_are_checked() {
        let hex = |head: &str, tail: &str| decimal(&format!("{head}{}{tail}", "0".repeat(45)));
        assert_eq!(ForeignNumber::parse(&hex("2", "1")).unwrap().version, 1);
        assert_eq!(ForeignNumber::parse(&hex("2", "2")).unwrap().version, 2);
        for (head, tail) in [("2", "0"), ("2", "3"), ("2", "4"), ("3", "2"), ("1", "2")] {
            assert_eq!(ForeignNumber::parse(&hex(head, tail)), None, "{head} {tail}");
        }
        let counter = |first: &str| decimal(&format!("20000000000{first}{}2", "0".repeat(34)));
        assert!(ForeignNumber::parse(&counter("7")).is_some());
        assert!(ForeignNumber::parse(&counter("8")).is_none());
        let late = |second: u64| decimal(&format!("2{second:09x}{}2", "0".repeat(36)));
        assert!(ForeignNumber::parse(&late(CREATION_SECOND_END - 1)).is_some());
        assert!(ForeignNumber::parse(&late(CREATION_SECOND_END)).is_none());
        let negative = decimal(&format!("2{}800000002", "0".repeat(37)));
        let number = ForeignNumber::parse(&negative).unwrap();
        assert_eq!(number.shard_text(), "shardId--02147483648");
        assert_eq!(ForeignNumber::parse(&"9".repeat(129)), None);
    }
}
