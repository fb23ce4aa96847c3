//! Where a NaN's bits can be seen. Arithmetic gives a NaN whatever bits the processor likes; made canonical they are the
//! same everywhere. That costs time, so it is done only where something other than arithmetic of the same shape looks.
//!
//! A value on the operand stack has a *source*: the operator that made it, or a local that it was read from. While a body
//! is walked through, each source is told by whom it is seen. A local is *lazy* in a shape if all that is ever written to
//! it is arithmetic of that shape, a constant without a NaN in it, or another such local; what is lazy may be made
//! canonical late, where it is seen. Everything else keeps its exact bits: programs do copy memory through floats.

/// Of what can be seen of a NaN: the canonical one where arithmetic made it, as if each operator did; else its exact bits.
pub const NAN_RULE_VERSION: u16 = 1;

/// The shapes in which arithmetic reads values, as a set.
pub type Shapes = u8;

pub const F32: Shapes = 1;
pub const F64: Shapes = 2;
pub const F32X4: Shapes = 4;
pub const F64X2: Shapes = 8;
const ALL: Shapes = 15;
/// Something that looks at the bits.
const BITS: Shapes = 16;

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// From somewhere that gives exact bits, which are to be kept.
    Exact,
    /// From the site of this index.
    Site(u32),
}

struct Site {
    /// The index of the operator that leaves the value on the operand stack.
    at: usize,
    made: Made,
    seen: Shapes,
}

#[derive(Clone, Copy)]
enum Made {
    /// By arithmetic, in one shape.
    Arithmetic(Shapes),
    /// By something that makes no NaN in any of these shapes.
    Number(Shapes),
    /// Read from a local.
    Local(u32),
}

/// What is found out of one body.
#[derive(Default)]
pub struct Nans {
    sites: Vec<Site>,
    /// Each write to a local.
    writes: Vec<(u32, Source)>,
}

impl Nans {
    pub fn arithmetic(&mut self, at: usize, shape: Shapes) -> Source {
        self.site(at, Made::Arithmetic(shape))
    }

    pub fn number(&mut self, at: usize, shapes: Shapes) -> Source {
        self.site(at, Made::Number(shapes))
    }

    pub fn local(&mut self, at: usize, local: u32) -> Source {
        self.site(at, Made::Local(local))
    }

    fn site(&mut self, at: usize, made: Made) -> Source {
        self.sites.push(Site { at, made, seen: 0 });
        Source::Site(self.sites.len() as u32 - 1)
    }

    /// Arithmetic of `shape` reads the value.
    pub fn read(&mut self, source: Source, shape: Shapes) {
        if let Source::Site(site) = source {
            self.sites[site as usize].seen |= shape;
        }
    }

    /// Something sees the value's bits.
    pub fn observe(&mut self, source: Source) {
        self.read(source, BITS);
    }

    pub fn write(&mut self, local: u32, source: Source) {
        self.writes.push((local, source));
    }

    /// The operators behind which their value is to be made canonical, and its shape; in the order of the body.
    pub fn canonical(mut self, params: usize, locals: usize) -> Vec<(usize, Shapes)> {
        let lazy = self.lazy(params, locals);
        let shape_of = |made: Made| match made {
            Made::Arithmetic(shape) => shape,
            Made::Number(_) => 0,
            Made::Local(local) => lazy[local as usize],
        };
        for (local, source) in &self.writes {
            if let Source::Site(site) = source {
                let site = &mut self.sites[*site as usize];
                if shape_of(site.made) != lazy[*local as usize] {
                    site.seen |= BITS;
                }
            }
        }
        let seen = self.sites.iter().map(|site| (site.at, shape_of(site.made), site.seen));
        seen.filter(|(_, shape, seen)| *shape != 0 && seen & !shape != 0).map(|(at, shape, _)| (at, shape)).collect()
    }

    /// The shape in which each local is lazy; 0 for those that hold exact bits, or no NaN that arithmetic made.
    fn lazy(&self, params: usize, locals: usize) -> Vec<Shapes> {
        // What every write agrees to: at first all, then less and less. And whether arithmetic writes to it: at first not.
        let mut found = vec![(ALL, false); locals];
        found[..params].fill((0, false));
        // To which locals each is copied.
        let mut copied: Vec<Vec<u32>> = vec![Vec::new(); locals];
        for (local, source) in &self.writes {
            let (agreed, written) = &mut found[*local as usize];
            match source {
                Source::Exact => *agreed = 0,
                Source::Site(site) => match self.sites[*site as usize].made {
                    Made::Arithmetic(shape) => (*agreed, *written) = (*agreed & shape, true),
                    Made::Number(shapes) => *agreed &= shapes,
                    Made::Local(from) => copied[from as usize].push(*local),
                },
            }
        }
        // Each local changes a handful of times at most, so this ends soon, however they are copied to each other.
        let mut changed: Vec<u32> = (0..locals as u32).collect();
        while let Some(from) = changed.pop() {
            let (agreed, written) = found[from as usize];
            for local in &copied[from as usize] {
                let before = found[*local as usize];
                let after = (before.0 & agreed, before.1 | written);
                if after != before {
                    found[*local as usize] = after;
                    changed.push(*local);
                }
            }
        }
        found.into_iter().map(|(agreed, written)| if written { agreed } else { 0 }).collect()
    }
}

/// The shapes in which these bits of a vector hold no NaN.
pub fn numbers_in(bytes: [u8; 16]) -> Shapes {
    let singles = bytes.as_chunks::<4>().0.iter().any(|lane| f32::from_le_bytes(*lane).is_nan());
    let doubles = bytes.as_chunks::<8>().0.iter().any(|lane| f64::from_le_bytes(*lane).is_nan());
    (if singles { 0 } else { F32X4 }) | (if doubles { 0 } else { F64X2 })
}
