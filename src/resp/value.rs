//! Replies as `redis::Value`, for the broker's own requests. Never on the path of a child's request.

use super::encode;
use redis::Value;

/// The value of one complete frame; `None` if the parser cannot read it. An error reply is a value too.
pub fn parse(frame: &[u8]) -> Option<Value> {
    redis::parse_redis_value(frame).ok()
}

/// The pairs of a map, or of the flat RESP2 array that represents one.
pub fn pairs(value: Value) -> Option<Vec<(Value, Value)>> {
    match value {
        Value::Map(pairs) => Some(pairs),
        Value::Array(items) if items.len() % 2 == 0 => {
            let mut items = items.into_iter();
            Some(std::iter::from_fn(|| items.next().zip(items.next())).collect())
        }
        _ => None,
    }
}

/// The text of a string of any kind.
pub fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::SimpleString(text) => Some(text.clone()),
        Value::VerbatimString { text, .. } => Some(text.clone()),
        Value::Okay => Some("OK".into()),
        _ => None,
    }
}

/// Writes a value as Redis would in protocol `proto`. Types that never occur in HELLO become null.
pub fn write(out: &mut Vec<u8>, value: &Value, proto: u8) {
    match value {
        Value::Int(n) => encode::int(out, *n),
        Value::Array(items) | Value::Set(items) => {
            encode::array_header(out, items.len());
            items.iter().for_each(|item| write(out, item, proto));
        }
        Value::Map(pairs) => {
            encode::map_header(out, pairs.len(), proto);
            for (key, value) in pairs {
                write(out, key, proto);
                write(out, value, proto);
            }
        }
        other => match text(other) {
            Some(text) => encode::bulk(out, text.as_bytes()),
            None => encode::null(out, proto),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_written_flat_in_resp2() {
        let value = parse(b"%1\r\n$1\r\na\r\n*1\r\n:1\r\n").unwrap();
        let mut out = Vec::new();
        write(&mut out, &value, 2);
        assert_eq!(out, b"*2\r\n$1\r\na\r\n*1\r\n:1\r\n");
        assert_eq!(pairs(parse(&out).unwrap()).unwrap().len(), 1);
    }
}
