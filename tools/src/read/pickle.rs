//! Python pickles read as data: a machine that builds values and executes nothing.
//!
//! What a pickle would import or call (`GLOBAL`, `REDUCE`, `NEWOBJ`, `BUILD`) becomes an inert
//! [`Node::Object`] that notes the callable's name and its arguments. Opcodes are those of
//! protocols 2 to 5 as CPython's `pickletools` documents them; PyTorch writes protocol 2.
//!
//! Values stand in one arena and refer to each other by index, so that cycles cost nothing and
//! nothing recurses. Each opcode makes at most one value and strings are no longer than the
//! input, hence memory is bounded by the input's length; there are caps besides.

use std::collections::HashMap;

use crate::Malformed;

/// Longest pickle that is read: a checkpoint of a large network with its optimiser has a few
/// megabytes.
pub const MAX_PICKLE_BYTES: usize = 64 << 20;

/// Most values in one pickle.
const MAX_NODES: usize = 2_000_000;

/// Most entries on the stack.
const MAX_STACK: usize = 1_000_000;

/// Index of a value in its [`Pickle`].
pub type Id = u32;

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// `None`.
    None,
    /// A boolean.
    Bool(bool),
    /// An integer that fits.
    Int(i64),
    /// A longer integer, little endian two's complement.
    Long(Box<[u8]>),
    /// A float.
    Float(f64),
    /// A string.
    Text(Box<str>),
    /// Bytes.
    Bytes(Box<[u8]>),
    /// A tuple.
    Tuple(Box<[Id]>),
    /// A list; also sets, whose order does not matter here.
    List(Vec<Id>),
    /// A dictionary, in the order of insertion.
    Dict(Vec<(Id, Id)>),
    /// Something that would have been imported.
    Global {
        /// Module, for example `torch._utils`.
        module: Box<str>,
        /// Name in it, for example `_rebuild_tensor_v2`.
        name: Box<str>,
    },
    /// A reference to something outside the pickle: PyTorch's storages.
    Persistent(Id),
    /// What would have been made by a call.
    Object(Box<Object>),
}

/// What a call would have made, and what would have been done to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// The callable or class: usually a [`Node::Global`].
    pub callable: Id,
    /// Its arguments: usually a [`Node::Tuple`].
    pub args: Id,
    /// What `BUILD` would have set: usually the instance's attributes.
    pub state: Option<Id>,
    /// What would have been set by key (a subclass of `dict`).
    pub items: Vec<(Id, Id)>,
    /// What would have been appended (a subclass of `list` or `set`).
    pub elements: Vec<Id>,
}

/// A pickle that has been read.
#[derive(Debug, Clone, Default)]
pub struct Pickle {
    nodes: Vec<Node>,
    root: Id,
}

impl Pickle {
    /// Reads the first pickle in `bytes`; also says how many bytes it takes.
    ///
    /// # Errors
    /// The bytes end too early, hold an opcode that is not supported, pop from an empty stack, or
    /// make more values than any checkpoint needs.
    pub fn parse(bytes: &[u8]) -> Result<(Self, usize), Malformed> {
        let mut machine = Machine::new(bytes);
        loop {
            let at = machine.position;
            let done = machine
                .step()
                .map_err(|fault| Malformed(format!("pickle, byte {at}: {fault}")))?;
            if let Some(root) = done {
                let pickle = Self {
                    nodes: machine.nodes,
                    root,
                };
                return Ok((pickle, machine.position));
            }
        }
    }

    /// The value that the pickle stands for.
    pub fn root(&self) -> Id {
        self.root
    }

    /// The value `id`.
    pub fn node(&self, id: Id) -> &Node {
        self.nodes.get(id as usize).unwrap_or(&Node::None)
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is no value at all; a pickle that was parsed has one.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// A string.
    pub fn text(&self, id: Id) -> Option<&str> {
        match self.node(id) {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    /// An integer.
    pub fn int(&self, id: Id) -> Option<i64> {
        match self.node(id) {
            Node::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// The elements of a tuple or list.
    pub fn sequence(&self, id: Id) -> Option<&[Id]> {
        match self.node(id) {
            Node::Tuple(items) => Some(items),
            Node::List(items) => Some(items),
            _ => None,
        }
    }

    /// The entries of a dictionary or an `OrderedDict`.
    pub fn entries(&self, id: Id) -> Option<&[(Id, Id)]> {
        match self.node(id) {
            Node::Dict(items) => Some(items),
            Node::Object(object) => match self.node(object.callable) {
                Node::Global { module, name }
                    if &**module == "collections" && &**name == "OrderedDict" =>
                {
                    Some(&object.items)
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// The value under the string `key` of a dictionary; of several, the last.
    pub fn get(&self, dict: Id, key: &str) -> Option<Id> {
        let entries = self.entries(dict)?;
        let found = entries
            .iter()
            .rev()
            .find(|(k, _)| self.text(*k) == Some(key));
        found.map(|(_, value)| *value)
    }

    /// An object with the module and name of what would have made it.
    pub fn object(&self, id: Id) -> Option<(&str, &str, &Object)> {
        let Node::Object(object) = self.node(id) else {
            return None;
        };
        match self.node(object.callable) {
            Node::Global { module, name } => Some((module, name, object)),
            _ => None,
        }
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    position: usize,
    nodes: Vec<Node>,
    stack: Vec<Id>,
    /// Lengths of the stack where marks were set.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes: &bytes[..bytes.len().min(MAX_PICKLE_BYTES)],
            position: 0,
            nodes: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        }
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], Malformed> {
        let rest = &self.bytes[self.position..];
        let piece = usize::try_from(count)
            .ok()
            .and_then(|count| rest.get(..count))
            .ok_or_else(|| {
                Malformed(format!(
                    "needs {count} bytes where {} are left: cut short or damaged",
                    rest.len()
                ))
            })?;
        self.position += piece.len();
        Ok(piece)
    }

    fn number<const N: usize>(&mut self) -> Result<u64, Malformed> {
        let mut value = [0_u8; 8];
        value[..N].copy_from_slice(self.take(N as u64)?);
        Ok(u64::from_le_bytes(value))
    }

    fn line(&mut self) -> Result<&'a str, Malformed> {
        let rest = &self.bytes[self.position..];
        let length = rest
            .iter()
            .position(|byte| *byte == b'\n')
            .ok_or_else(|| Malformed::new("a line does not end"))?;
        let line = self.take(length as u64)?;
        self.position += 1;
        text(line)
    }

    fn push_id(&mut self, id: Id) -> Result<(), Malformed> {
        if self.stack.len() >= MAX_STACK {
            return Err(Malformed::new("its stack grows beyond any sensible size"));
        }
        self.stack.push(id);
        Ok(())
    }

    fn push(&mut self, node: Node) -> Result<(), Malformed> {
        if self.nodes.len() >= MAX_NODES {
            return Err(Malformed::new(
                "it makes more values than any checkpoint needs",
            ));
        }
        let id = self.nodes.len() as Id;
        self.nodes.push(node);
        self.push_id(id)
    }

    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Id, Malformed> {
        if self.stack.len() <= self.floor() {
            return Err(Malformed::new("pops from an empty stack"));
        }
        self.stack
            .pop()
            .ok_or_else(|| Malformed::new("pops from an empty stack"))
    }

    fn top(&self) -> Result<Id, Malformed> {
        if self.stack.len() <= self.floor() {
            return Err(Malformed::new("looks at an empty stack"));
        }
        self.stack
            .last()
            .copied()
            .ok_or_else(|| Malformed::new("looks at an empty stack"))
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>, Malformed> {
        let mark = self
            .marks
            .pop()
            .ok_or_else(|| Malformed::new("needs a mark that was never set"))?;
        Ok(self.stack.split_off(mark))
    }

    fn pop_tuple(&mut self, count: usize) -> Result<(), Malformed> {
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(self.pop()?);
        }
        items.reverse();
        self.push(Node::Tuple(items.into()))
    }

    fn push_text(&mut self, length: u64) -> Result<(), Malformed> {
        let string = text(self.take(length)?)?.into();
        self.push(Node::Text(string))
    }

    fn push_bytes(&mut self, length: u64) -> Result<(), Malformed> {
        let bytes = self.take(length)?.into();
        self.push(Node::Bytes(bytes))
    }

    fn push_long(&mut self, length: u64) -> Result<(), Malformed> {
        let bytes = self.take(length)?;
        if bytes.len() > 8 {
            return self.push(Node::Long(bytes.into()));
        }
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut value = [if negative { 0xff } else { 0 }; 8];
        value[..bytes.len()].copy_from_slice(bytes);
        self.push(Node::Int(i64::from_le_bytes(value)))
    }

    fn push_object(&mut self, callable: Id, args: Id) -> Result<(), Malformed> {
        self.push(Node::Object(Box::new(Object {
            callable,
            args,
            state: None,
            items: Vec::new(),
            elements: Vec::new(),
        })))
    }

    /// Appends to the list, set or object on top.
    fn append(&mut self, new: &[Id]) -> Result<(), Malformed> {
        let target = self.top()?;
        match self.nodes.get_mut(target as usize) {
            Some(Node::List(items)) => items.extend_from_slice(new),
            Some(Node::Object(object)) => object.elements.extend_from_slice(new),
            _ => return Err(Malformed::new("appends to what is no list")),
        }
        Ok(())
    }

    /// Sets keys (even places) to values (odd places) in the dictionary or object on top.
    fn set_items(&mut self, flat: &[Id]) -> Result<(), Malformed> {
        if !flat.len().is_multiple_of(2) {
            return Err(Malformed::new("a key has no value"));
        }
        let target = self.top()?;
        let items = match self.nodes.get_mut(target as usize) {
            Some(Node::Dict(items)) => items,
            Some(Node::Object(object)) => &mut object.items,
            _ => return Err(Malformed::new("sets items of what is no dictionary")),
        };
        items.extend(flat.chunks_exact(2).map(|pair| (pair[0], pair[1])));
        Ok(())
    }

    fn build(&mut self) -> Result<(), Malformed> {
        let state = self.pop()?;
        let target = self.top()?;
        // State set on anything but an object would need that thing's own code: left out.
        if let Some(Node::Object(object)) = self.nodes.get_mut(target as usize) {
            object.state = Some(state);
        }
        Ok(())
    }

    fn memoize(&mut self, key: u64) -> Result<(), Malformed> {
        let key = u32::try_from(key).map_err(|_| Malformed::new("a memo key is absurd"))?;
        let id = self.top()?;
        self.memo.insert(key, id);
        Ok(())
    }

    fn recall(&mut self, key: u64) -> Result<(), Malformed> {
        let id = u32::try_from(key)
            .ok()
            .and_then(|key| self.memo.get(&key).copied());
        let id = id.ok_or_else(|| Malformed(format!("memo {key} was never set")))?;
        self.push_id(id)
    }

    fn stack_global(&mut self) -> Result<(), Malformed> {
        let (name, module) = (self.pop()?, self.pop()?);
        let word = |id: Id| match self.nodes.get(id as usize) {
            Some(Node::Text(text)) => Ok(text.clone()),
            _ => Err(Malformed::new("the name of a global is no string")),
        };
        let (module, name) = (word(module)?, word(name)?);
        self.push(Node::Global { module, name })
    }

    /// Runs one opcode; gives the root when it was the last.
    fn step(&mut self) -> Result<Option<Id>, Malformed> {
        let opcode = self.number::<1>()? as u8;
        match opcode {
            b'.' => return self.pop().map(Some),
            0x80 => {
                let protocol = self.number::<1>()?;
                if !(2..=5).contains(&protocol) {
                    return Err(Malformed(format!("protocol {protocol} is not supported")));
                }
            }
            0x95 => {
                self.number::<8>()?; // frame length: only a hint for reading ahead
            }
            b'(' => self.set_mark()?,
            b'0' => {
                self.pop()?;
            }
            b'1' => {
                self.pop_mark()?;
            }
            b'2' => {
                let id = self.top()?;
                self.push_id(id)?;
            }
            b'q' => {
                let key = self.number::<1>()?;
                self.memoize(key)?;
            }
            b'r' => {
                let key = self.number::<4>()?;
                self.memoize(key)?;
            }
            0x94 => {
                let key = self.memo.len() as u64;
                self.memoize(key)?;
            }
            b'h' => {
                let key = self.number::<1>()?;
                self.recall(key)?;
            }
            b'j' => {
                let key = self.number::<4>()?;
                self.recall(key)?;
            }
            b'N' | 0x88 | 0x89 | b'J' | b'K' | b'M' | b'G' | 0x8a | 0x8b | b'X' | 0x8c | 0x8d
            | b'U' | b'T' | b'B' | b'C' | 0x8e | 0x96 => self.scalar(opcode)?,
            b')' | 0x85..=0x87 | b't' | b']' | 0x8f | b'l' | b'}' | b'd' | 0x91 => {
                self.container(opcode)?;
            }
            b'a' | b'e' | 0x90 | b's' | b'u' | b'b' => self.mutation(opcode)?,
            b'c' | 0x93 | b'Q' | b'R' | 0x81 | 0x92 => self.reference(opcode)?,
            other => {
                return Err(Malformed(format!("opcode 0x{other:02x} is not supported")));
            }
        }
        Ok(None)
    }

    fn set_mark(&mut self) -> Result<(), Malformed> {
        if self.marks.len() >= MAX_STACK {
            return Err(Malformed::new("sets more marks than any checkpoint needs"));
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    fn scalar(&mut self, opcode: u8) -> Result<(), Malformed> {
        match opcode {
            b'N' => self.push(Node::None),
            0x88 => self.push(Node::Bool(true)),
            0x89 => self.push(Node::Bool(false)),
            b'J' => {
                let value = (self.number::<4>()? as u32).cast_signed();
                self.push(Node::Int(value.into()))
            }
            b'K' => {
                let value = self.number::<1>()?.cast_signed();
                self.push(Node::Int(value))
            }
            b'M' => {
                let value = self.number::<2>()?.cast_signed();
                self.push(Node::Int(value))
            }
            b'G' => {
                let bits = self.number::<8>()?.swap_bytes(); // big endian
                self.push(Node::Float(f64::from_bits(bits)))
            }
            0x8a => {
                let length = self.number::<1>()?;
                self.push_long(length)
            }
            0x8b => {
                let length = self.number::<4>()?;
                self.push_long(length)
            }
            b'X' => {
                let length = self.number::<4>()?;
                self.push_text(length)
            }
            0x8c => {
                let length = self.number::<1>()?;
                self.push_text(length)
            }
            0x8d => {
                let length = self.number::<8>()?;
                self.push_text(length)
            }
            // Strings of Python 2 and bytes.
            b'U' | b'C' => {
                let length = self.number::<1>()?;
                self.push_bytes(length)
            }
            b'T' | b'B' => {
                let length = self.number::<4>()?;
                self.push_bytes(length)
            }
            _ => {
                let length = self.number::<8>()?;
                self.push_bytes(length)
            }
        }
    }

    fn container(&mut self, opcode: u8) -> Result<(), Malformed> {
        match opcode {
            b')' => self.push(Node::Tuple(Box::new([]))),
            0x85..=0x87 => self.pop_tuple(usize::from(opcode - 0x84)),
            b't' => {
                let items = self.pop_mark()?;
                self.push(Node::Tuple(items.into()))
            }
            b']' | 0x8f => self.push(Node::List(Vec::new())),
            b'l' | 0x91 => {
                let items = self.pop_mark()?;
                self.push(Node::List(items))
            }
            b'}' => self.push(Node::Dict(Vec::new())),
            _ => {
                let items = self.pop_mark()?;
                self.push(Node::Dict(Vec::new()))?;
                self.set_items(&items)
            }
        }
    }

    fn mutation(&mut self, opcode: u8) -> Result<(), Malformed> {
        match opcode {
            b'a' => {
                let item = self.pop()?;
                self.append(&[item])
            }
            b'e' | 0x90 => {
                let items = self.pop_mark()?;
                self.append(&items)
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(&[key, value])
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.set_items(&items)
            }
            _ => self.build(),
        }
    }

    fn reference(&mut self, opcode: u8) -> Result<(), Malformed> {
        match opcode {
            b'c' => {
                let module = self.line()?.into();
                let name = self.line()?.into();
                self.push(Node::Global { module, name })
            }
            0x93 => self.stack_global(),
            b'Q' => {
                let id = self.pop()?;
                self.push(Node::Persistent(id))
            }
            0x92 => {
                let keywords = self.pop()?;
                let (args, callable) = (self.pop()?, self.pop()?);
                self.push_object(callable, args)?;
                self.set_items(&[keywords, keywords])
            }
            _ => {
                let (args, callable) = (self.pop()?, self.pop()?);
                self.push_object(callable, args)
            }
        }
    }
}

fn text(bytes: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes).map_err(|_| Malformed::new("a string is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `pickle.dumps({"a": [1, -2, 300, 70000, 2.5, None, True], "b": ("x", 2**70)}, 2)` of
    /// CPython 3.
    const NESTED: &[u8] = b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01J\xfe\xff\xff\xffM,\x01Jp\x11\x01\x00G@\x04\x00\x00\x00\x00\x00\x00N\x88eX\x01\x00\x00\x00bq\x03X\x01\x00\x00\x00xq\x04\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00@\x86q\x05u.";

    #[test]
    fn builds_values() {
        let (pickle, used) = Pickle::parse(NESTED).unwrap();
        assert_eq!(used, NESTED.len());
        let list = pickle.get(pickle.root(), "a").unwrap();
        let list = pickle.sequence(list).unwrap();
        let ints: Vec<_> = list.iter().map(|id| pickle.int(*id)).collect();
        let expected = [Some(1), Some(-2), Some(300), Some(70_000), None, None, None];
        assert_eq!(ints, expected);
        assert_eq!(*pickle.node(list[4]), Node::Float(2.5));
        let pair = pickle.get(pickle.root(), "b").unwrap();
        let pair = pickle.sequence(pair).unwrap();
        assert_eq!(pickle.text(pair[0]), Some("x"));
        assert!(matches!(pickle.node(pair[1]), Node::Long(bytes) if bytes.len() == 9));
    }

    /// The classic attack, `os.system("…")`: it stays a value that nobody calls.
    #[test]
    fn calls_nothing() {
        let bytes = b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00exit\x85R.";
        let (pickle, _) = Pickle::parse(bytes).unwrap();
        let (module, name, object) = pickle.object(pickle.root()).unwrap();
        assert_eq!((module, name), ("os", "system"));
        assert_eq!(pickle.sequence(object.args).map(<[Id]>::len), Some(1));
    }

    #[test]
    fn every_cut_is_an_error() {
        for length in 0..NESTED.len() {
            assert!(Pickle::parse(&NESTED[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn refuses_tricks() {
        let cases: [(&[u8], &str); 7] = [
            (b"\x80\x02X\xff\xff\xff\xffabc.", "bytes where"),
            (
                b"\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
                "bytes where",
            ),
            (b"\x80\x020.", "empty stack"),
            (b"\x80\x02K\x01(0.", "empty stack"),
            (b"\x80\x02h\x05.", "never set"),
            (b"\x80\x02e.", "mark"),
            (b"\x80\x09N.", "protocol 9"),
        ];
        for (bytes, words) in cases {
            let fault = Pickle::parse(bytes).unwrap_err();
            assert!(fault.0.contains(words), "{fault}");
        }
    }

    /// A "billion laughs" of lists within lists: each value is there once, however often it is
    /// referred to.
    #[test]
    fn shared_values_are_not_copied() {
        let mut bytes = b"\x80\x02]q\x00".to_vec();
        for _ in 0..1000 {
            bytes.extend_from_slice(b"]q\x01(h\x00h\x00h\x00h\x00eq\x00");
        }
        bytes.push(b'.');
        let (pickle, _) = Pickle::parse(&bytes).unwrap();
        assert_eq!(pickle.len(), 1001);
    }
}
