//! Images of children as bytes: an array of maps in RESP3, each value under a name, so that a later version may add some.
//! What is missing has its default; what is not known is passed over. The number of the format changes when that is not
//! enough. Bytes are of another process of the same user, and may be anything all the same: what is none of this is an error.

use crate::base::process::UnixCredentials;
use crate::core::handover::image::{ChildImage, HubImage, PasswordImage, UserImage, WaitImage};
use crate::core::keys::LeaseKind;
use crate::core::transaction::state::moved::{CountImage, MultiImage};
use crate::resp::{encode, value};
use redis::Value;
use zeroize::Zeroizing;

/// The number of the format. Another one is refused before anything is given.
pub const FORMAT: u64 = 1;

/// Writes a map whose length is known when it is done.
#[derive(Default)]
struct MapWriter {
    body: Zeroizing<Vec<u8>>,
    count: usize,
}

impl MapWriter {
    fn key(&mut self, name: &str) -> &mut Vec<u8> {
        self.count += 1;
        encode::bulk(&mut self.body, name.as_bytes());
        &mut self.body
    }

    fn bytes(&mut self, name: &str, bytes: &[u8]) {
        if !bytes.is_empty() {
            encode::bulk(self.key(name), bytes);
        }
    }

    fn number(&mut self, name: &str, number: u64) {
        if number != 0 {
            // As text: RESP has signed numbers alone.
            let mut text = Vec::new();
            encode::decimal(&mut text, number);
            encode::bulk(self.key(name), &text);
        }
    }

    fn flag(&mut self, name: &str, flag: bool) {
        self.number(name, u64::from(flag));
    }

    fn map(&mut self, name: &str, map: MapWriter) {
        map.end(self.key(name));
    }

    fn maps(&mut self, name: &str, maps: impl ExactSizeIterator<Item = MapWriter>) {
        if maps.len() > 0 {
            let into = self.key(name);
            encode::array_header(into, maps.len());
            maps.for_each(|map| map.end(into));
        }
    }

    fn end(self, into: &mut Vec<u8>) {
        encode::map_header(into, self.count, 3);
        into.extend_from_slice(&self.body);
    }
}

/// The images as bytes. They hold passwords, and are overwritten when they are dropped.
pub fn encode_images<'i>(
    images: impl ExactSizeIterator<Item = &'i ChildImage> + Clone,
) -> Zeroizing<Vec<u8>> {
    // Where it grows, what it leaves behind is not overwritten.
    let mut bytes =
        Zeroizing::new(Vec::with_capacity(images.clone().map(|image| 2 * image.about_bytes()).sum()));
    encode::array_header(&mut bytes, images.len());
    images.for_each(|image| image_map(image).end(&mut bytes));
    bytes
}

fn image_map(image: &ChildImage) -> MapWriter {
    let mut map = MapWriter::default();
    map.number("id", image.id);
    map.flag("admin", image.is_admin);
    map.bytes("peer", image.peer.as_bytes());
    map.bytes("label", image.label.as_deref().unwrap_or_default().as_bytes());
    map.flag("reads-replicas", image.reads_replicas);
    map.number("age-ms", image.age_ms);
    map.number("idle-ms", image.idle_ms);
    map.bytes("name", &image.name);
    map.bytes("lib-name", &image.lib_name);
    map.bytes("lib-version", &image.lib_version);
    map.number("db", image.db.into());
    map.number("home-db", image.home_db.into());
    map.number("proto", image.proto.into());
    map.flag("no-evict", image.no_evict);
    map.flag("no-touch", image.no_touch);
    map.flag("debugs", image.debugs);
    map.flag("takes-errors", image.takes_errors);
    map.flag("mutes", image.mutes);
    map.flag("skips", image.skips);
    map.flag("watch-lost", image.watch_lost);
    map.map("user", user_map(&image.user));
    if let Some((who, sure)) = image.writer {
        let mut writer = MapWriter::default();
        writer.number("pid", who.pid as u64);
        writer.number("uid", who.uid.into());
        writer.number("gid", who.gid.into());
        writer.flag("sure", sure);
        map.map("writer", writer);
    }
    map.number("requests", image.requests);
    map.number("bytes-in", image.bytes_in);
    map.number("bytes-out", image.bytes_out);
    map.bytes("input", &image.input);
    map.bytes("output", &image.output);
    map.flag("wrote", image.wrote);
    map.number("own-writes-ms", image.own_writes_ms);
    map.number("window", image.window.into());
    if let Some(wait) = &image.wait {
        map.map("wait", wait_map(wait));
    }
    if let Some(multi) = &image.multi {
        map.map("multi", multi_map(multi));
    }
    map.bytes("last-command", image.last_command.as_deref().unwrap_or_default().as_bytes());
    map.maps("topics", image.topics.iter().map(|(family, name)| pair_map(family, name)));
    map
}

/// A name, and bytes.
fn pair_map(name: &str, bytes: &[u8]) -> MapWriter {
    let mut map = MapWriter::default();
    map.bytes("name", name.as_bytes());
    map.bytes("bytes", bytes);
    map
}

fn pair_of_map(map: &mut MapReader) -> Read<(String, Vec<u8>)> {
    Ok((map.text("name")?, map.bytes("bytes")?))
}

/// The image of a connection for subscriptions as bytes.
pub fn encode_hub(image: &HubImage) -> Zeroizing<Vec<u8>> {
    let mut map = MapWriter::default();
    map.map("user", user_map(&image.user));
    map.number("upstream-id", image.upstream_id as u64);
    map.bytes("input", &image.input);
    map.maps("renamed", image.renamed.iter().map(|(name, typed)| pair_map(name, typed)));
    let mut bytes = Zeroizing::new(Vec::with_capacity(1024 + 2 * image.input.len()));
    map.end(&mut bytes);
    bytes
}

/// The image that these bytes are; or why they are none.
pub fn decode_hub(bytes: &[u8]) -> Result<HubImage, String> {
    let map = value::parse(bytes).ok_or("not a connection for subscriptions")?;
    let mut map = MapReader::of(map)?;
    Ok(HubImage {
        user: user_of_map(&mut map.map("user")?.ok_or("no user")?)?,
        upstream_id: map.number("upstream-id")?,
        input: map.bytes("input")?,
        renamed: map.maps("renamed", pair_of_map)?,
    })
}

fn user_map(user: &UserImage) -> MapWriter {
    let mut map = MapWriter::default();
    let kind = match user {
        UserImage::Upstream => "upstream",
        UserImage::Default => "default",
        UserImage::Nobody => "nobody",
        UserImage::Undecided => "undecided",
        UserImage::Account(_) => "account",
        UserImage::Known { .. } => "known",
    };
    map.bytes("kind", kind.as_bytes());
    match user {
        UserImage::Account(name) => map.bytes("name", name.as_bytes()),
        UserImage::Known { name, password, any } => {
            map.bytes("name", name);
            map.bytes("password", password.0.expose());
            map.flag("any", *any);
        }
        _ => {}
    }
    map
}

fn wait_map(wait: &WaitImage) -> MapWriter {
    let mut map = MapWriter::default();
    map.bytes("kind", wait.kind.as_str().as_bytes());
    map.number("ticket", wait.ticket);
    map.number("waited-ms", wait.waited_ms);
    map.number("present-ms", wait.present_ms);
    map.flag("for-element", wait.for_element);
    map.flag("ends", wait.left_ms.is_some());
    map.number("left-ms", wait.left_ms.unwrap_or_default());
    map
}

fn multi_map(multi: &MultiImage) -> MapWriter {
    let mut map = MapWriter::default();
    let command = |element: u32, name: &str, request: &[u8]| {
        let mut map = MapWriter::default();
        map.number("element", element.into());
        map.bytes("command", name.as_bytes());
        map.bytes("request", request);
        map
    };
    map.maps("requests", multi.requests.iter().map(|(name, request)| command(0, name, request)));
    map.number("commands", multi.commands.into());
    map.number("kept-bytes", multi.kept_bytes as u64);
    map.flag("spoilt", multi.spoilt);
    map.flag("full", multi.full);
    map.bytes("abort-reason", multi.abort_reason.as_deref().unwrap_or_default().as_bytes());
    map.maps("local", multi.local.iter().map(|(element, name, request)| command(*element, name, request)));
    map.maps(
        "selects",
        multi.selects.iter().map(|(element, db)| {
            let mut map = MapWriter::default();
            map.number("element", (*element).into());
            map.number("db", (*db).into());
            map
        }),
    );
    map.maps(
        "counts",
        multi.counts.iter().map(|count| {
            let mut map = MapWriter::default();
            map.number("element", count.element.into());
            map.flag("shard", count.shard);
            map.flag("publishes", count.publishes);
            map.bytes("channel", &count.channel);
            map
        }),
    );
    map
}

/// A map whose values are taken out by name.
struct MapReader(Vec<(Value, Value)>);

type Read<T> = Result<T, String>;

impl MapReader {
    fn of(value: Value) -> Read<MapReader> {
        value::pairs(value).map(MapReader).ok_or_else(|| "not a map".to_owned())
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        let is_it = |key: &Value| matches!(key, Value::BulkString(key) if key == name.as_bytes());
        let at = self.0.iter().position(|(key, _)| is_it(key))?;
        Some(self.0.swap_remove(at).1)
    }

    fn bytes(&mut self, name: &str) -> Read<Vec<u8>> {
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Value::BulkString(bytes)) => Ok(bytes),
            Some(_) => Err(format!("{name} is no string")),
        }
    }

    fn text(&mut self, name: &str) -> Read<String> {
        String::from_utf8(self.bytes(name)?).map_err(|_| format!("{name} is no text"))
    }

    /// Empty is as good as missing.
    fn some_text(&mut self, name: &str) -> Read<Option<String>> {
        Ok(Some(self.text(name)?).filter(|text| !text.is_empty()))
    }

    fn number<N: TryFrom<u64>>(&mut self, name: &str) -> Read<N> {
        let text = self.text(name)?;
        let number = if text.is_empty() { Ok(0) } else { text.parse::<u64>() };
        let number = number.ok().and_then(|number| N::try_from(number).ok());
        number.ok_or_else(|| format!("{name} is no such number"))
    }

    fn flag(&mut self, name: &str) -> Read<bool> {
        Ok(self.number::<u64>(name)? != 0)
    }

    fn map(&mut self, name: &str) -> Read<Option<MapReader>> {
        self.take(name).map(MapReader::of).transpose()
    }

    fn maps<T>(&mut self, name: &str, read: impl Fn(&mut MapReader) -> Read<T>) -> Read<Vec<T>> {
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => {
                items.into_iter().map(|item| read(&mut MapReader::of(item)?)).collect()
            }
            Some(_) => Err(format!("{name} is no list")),
        }
    }
}

/// The images that these bytes are; or why they are none.
pub fn decode_images(bytes: &[u8]) -> Result<Vec<ChildImage>, String> {
    match value::parse(bytes) {
        Some(Value::Array(items)) => {
            items.into_iter().map(|item| image_of_map(&mut MapReader::of(item)?)).collect()
        }
        _ => Err("not a list of children".to_owned()),
    }
}

fn image_of_map(map: &mut MapReader) -> Read<ChildImage> {
    let writer = |map: &mut MapReader| {
        let pid = map.number::<i32>("pid")?;
        let who = UnixCredentials { pid, uid: map.number("uid")?, gid: map.number("gid")? };
        Ok::<_, String>((who, map.flag("sure")?))
    };
    let image = ChildImage {
        id: map.number("id")?,
        is_admin: map.flag("admin")?,
        peer: map.text("peer")?,
        label: map.some_text("label")?,
        reads_replicas: map.flag("reads-replicas")?,
        age_ms: map.number("age-ms")?,
        idle_ms: map.number("idle-ms")?,
        name: map.bytes("name")?,
        lib_name: map.bytes("lib-name")?,
        lib_version: map.bytes("lib-version")?,
        db: map.number("db")?,
        home_db: map.number("home-db")?,
        proto: map.number("proto")?,
        no_evict: map.flag("no-evict")?,
        no_touch: map.flag("no-touch")?,
        debugs: map.flag("debugs")?,
        takes_errors: map.flag("takes-errors")?,
        mutes: map.flag("mutes")?,
        skips: map.flag("skips")?,
        watch_lost: map.flag("watch-lost")?,
        user: user_of_map(&mut map.map("user")?.ok_or("no user")?)?,
        writer: map.map("writer")?.map(|mut map| writer(&mut map)).transpose()?,
        requests: map.number("requests")?,
        bytes_in: map.number("bytes-in")?,
        bytes_out: map.number("bytes-out")?,
        input: map.bytes("input")?,
        output: map.bytes("output")?,
        wrote: map.flag("wrote")?,
        own_writes_ms: map.number("own-writes-ms")?,
        window: map.number("window")?,
        wait: map.map("wait")?.map(|mut map| wait_of_map(&mut map)).transpose()?,
        multi: map.map("multi")?.map(|mut map| multi_of_map(&mut map)).transpose()?,
        last_command: map.some_text("last-command")?,
        topics: map.maps("topics", pair_of_map)?,
    };
    let is_sound = matches!(image.proto, 2 | 3) && image.bytes_in >= image.input.len() as u64;
    if is_sound { Ok(image) } else { Err("a child that cannot be".to_owned()) }
}

fn user_of_map(map: &mut MapReader) -> Read<UserImage> {
    Ok(match map.text("kind")?.as_str() {
        "upstream" => UserImage::Upstream,
        "default" => UserImage::Default,
        "nobody" => UserImage::Nobody,
        "undecided" => UserImage::Undecided,
        "account" => UserImage::Account(map.text("name")?),
        "known" => {
            let password = Zeroizing::new(map.bytes("password")?);
            let password = PasswordImage::new(&password);
            UserImage::Known { name: map.bytes("name")?, password, any: map.flag("any")? }
        }
        other => return Err(format!("a user of the kind '{}'", other.escape_default())),
    })
}

fn wait_of_map(map: &mut MapReader) -> Read<WaitImage> {
    let kind = map.text("kind")?;
    let kind = LeaseKind::ALL.into_iter().find(|known| known.as_str() == kind).ok_or("an unknown wait")?;
    let (ends, left) = (map.flag("ends")?, map.number("left-ms")?);
    Ok(WaitImage {
        kind,
        ticket: map.number("ticket")?,
        waited_ms: map.number("waited-ms")?,
        present_ms: map.number("present-ms")?,
        left_ms: ends.then_some(left),
        for_element: map.flag("for-element")?,
    })
}

fn multi_of_map(map: &mut MapReader) -> Read<MultiImage> {
    let command = |map: &mut MapReader| {
        Ok((map.number::<u32>("element")?, map.text("command")?, map.bytes("request")?))
    };
    let requests = map.maps("requests", command)?;
    Ok(MultiImage {
        requests: requests.into_iter().map(|(_, name, request)| (name, request)).collect(),
        commands: map.number("commands")?,
        kept_bytes: map.number("kept-bytes")?,
        spoilt: map.flag("spoilt")?,
        full: map.flag("full")?,
        abort_reason: map.some_text("abort-reason")?,
        local: map.maps("local", command)?,
        selects: map.maps("selects", |map| Ok((map.number("element")?, map.number("db")?)))?,
        counts: map.maps("counts", |map| {
            Ok(CountImage {
                element: map.number("element")?,
                shard: map.flag("shard")?,
                publishes: map.flag("publishes")?,
                channel: map.bytes("channel")?,
            })
        })?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn full() -> ChildImage {
        let who = UnixCredentials { pid: 4242, uid: 1000, gid: 100 };
        let password = PasswordImage::new(b"s3cr3t\r\n");
        ChildImage {
            id: 1 << 45,
            is_admin: true,
            peer: "pid 4242 uid 1000".to_owned(),
            label: Some("web".to_owned()),
            reads_replicas: true,
            age_ms: 5,
            idle_ms: 3,
            name: b"name \xff".to_vec(),
            lib_name: b"lib".to_vec(),
            lib_version: b"1".to_vec(),
            db: 7,
            home_db: 2,
            proto: 3,
            no_evict: true,
            no_touch: true,
            debugs: true,
            takes_errors: true,
            mutes: true,
            skips: true,
            watch_lost: true,
            user: UserImage::Known { name: b"u".to_vec(), password, any: true },
            writer: Some((who, true)),
            requests: 9,
            bytes_in: 100,
            bytes_out: u64::MAX,
            input: b"*2\r\n$3\r\nGET".to_vec(),
            output: b"$5\r\nabcde\r\n".to_vec(),
            wrote: true,
            own_writes_ms: 11,
            window: 64,
            wait: Some(WaitImage {
                kind: LeaseKind::Blocking,
                ticket: 8,
                waited_ms: 100,
                present_ms: 50,
                left_ms: Some(0),
                for_element: true,
            }),
            multi: Some(MultiImage {
                requests: vec![("multi".to_owned(), b"MULTI".to_vec()), ("get".to_owned(), Vec::new())],
                commands: 2,
                kept_bytes: 300,
                spoilt: true,
                full: true,
                abort_reason: Some("why".to_owned()),
                local: vec![(1, "client-id".to_owned(), b"CLIENT ID".to_vec())],
                selects: vec![(0, 3), (4, 0)],
                counts: vec![CountImage { element: 3, shard: true, publishes: true, channel: b"c".to_vec() }],
            }),
            last_command: Some("client|id".to_owned()),
            topics: vec![("channel".to_owned(), b"news".to_vec()), ("shard".to_owned(), Vec::new())],
        }
    }

    #[test]
    fn an_image_is_read_as_it_was_written() {
        let plain = ChildImage { proto: 2, ..ChildImage::default() };
        let users =
            [UserImage::Default, UserImage::Nobody, UserImage::Undecided, UserImage::Account("a".into())];
        let users = users.map(|user| ChildImage { user, ..plain.clone() });
        let images = [[full(), plain].as_slice(), &users].concat();
        assert_eq!(decode_images(&encode_images(images.iter())), Ok(images));
        assert!(
            !format!("{:?}", full()).contains("s3cr3t") && !format!("{:?}", full().user).contains("s3cr3t")
        );
    }

    #[test]
    fn a_hub_is_read_as_it_was_written() {
        let renamed = vec![("subscribe".to_owned(), b"listen".to_vec())];
        let hub = HubImage { user: full().user, upstream_id: 77, input: b">3\r\n$7".to_vec(), renamed };
        assert_eq!(decode_hub(&encode_hub(&hub)), Ok(hub));
        assert!(decode_hub(b"").is_err() && decode_hub(b"%0\r\n").is_err());
    }

    #[test]
    fn what_is_not_known_is_passed_over() {
        let (mut map, mut bytes) = (image_map(&full()), Vec::new());
        map.maps("of-a-later-version", [MapWriter::default()].into_iter());
        encode::array_header(&mut bytes, 1);
        map.end(&mut bytes);
        assert_eq!(decode_images(&bytes), Ok(vec![full()]));
    }

    #[test]
    fn what_cannot_be_is_an_error() {
        for image in [ChildImage { proto: 4, ..full() }, ChildImage { bytes_in: 3, ..full() }] {
            assert!(decode_images(&encode_images([image].iter())).is_err());
        }
        for bytes in ["", "+OK\r\n", "*1\r\n:1\r\n", "*1\r\n%0\r\n", "*1\r\n%1\r\n$2\r\nid\r\n$1\r\nx\r\n"] {
            assert!(decode_images(bytes.as_bytes()).is_err(), "{bytes}");
        }
    }

    proptest! {
        /// Whatever a damaged memory holds, it is an error or a list of children.
        #[test]
        fn damaged_images_are_survived(at in 0usize..4096, with in any::<u8>(), cut in 0usize..4096) {
            let mut bytes = encode_images([full()].iter()).to_vec();
            let len = bytes.len();
            bytes[at % len] = with;
            let _ = decode_images(&bytes);
            let _ = decode_images(&bytes[..cut % len]);
        }
    }
}
