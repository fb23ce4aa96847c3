//! Analysis of where the bits of a NaN can be observed. Arithmetic may produce a NaN with any bits,
//! depending on the processor. A canonical NaN is the same everywhere, but making it takes time. So
//! a NaN is made canonical only where something other than arithmetic of the same shape reads it.
//!
//! Each value on the operand stack has a *source*: the operator that made it, or the local that it
//! was read from. The walk over a body records for each source how it is read. A local is *lazy* in
//! a shape if each write to it is of one of three kinds. The kinds are arithmetic of that shape, a
//! constant without a NaN, and another lazy local. A lazy value may be made canonical late, where
//! it is observed. All other values keep their exact bits, because programs do copy memory through
//! floats.

use super::role::{F32, F32X4, F64, F64X2, Shapes};

/// Version of the NaN rule. An observed NaN is canonical if arithmetic made it, as if each operator
/// made its result canonical. Otherwise it keeps its exact bits.
pub const NAN_RULE_VERSION: u16 = 1;

const ALL: Shapes = F32 | F64 | F32X4 | F64X2;
/// Pseudo-shape of a read that observes the exact bits.
const BITS: Shapes = 16;

/// The origin of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueOrigin {
    /// The value has exact bits, which must be preserved.
    Exact,
    /// The value comes from the site with this index.
    Site(u32),
}

struct NanSite {
    /// The index of the operator that pushes the value.
    at: usize,
    made: ResultOrigin,
    seen: Shapes,
}

#[derive(Clone, Copy)]
enum ResultOrigin {
    /// Arithmetic in one shape made it.
    Arithmetic(Shapes),
    /// An operator made it that never produces a NaN in these shapes.
    Number(Shapes),
    /// A read of a local.
    Local(u32),
}

/// Findings about one body.
#[derive(Default)]
pub struct NanSites {
    sites: Vec<NanSite>,
    /// Each write to a local.
    writes: Vec<(u32, ValueOrigin)>,
}

impl NanSites {
    pub fn arithmetic(&mut self, at: usize, shape: Shapes) -> ValueOrigin {
        self.site(at, ResultOrigin::Arithmetic(shape))
    }

    pub fn number(&mut self, at: usize, shapes: Shapes) -> ValueOrigin {
        self.site(at, ResultOrigin::Number(shapes))
    }

    pub fn local(&mut self, at: usize, local: u32) -> ValueOrigin {
        self.site(at, ResultOrigin::Local(local))
    }

    fn site(&mut self, at: usize, made: ResultOrigin) -> ValueOrigin {
        self.sites.push(NanSite { at, made, seen: 0 });
        ValueOrigin::Site(self.sites.len() as u32 - 1)
    }

    /// Records that arithmetic of `shape` reads the value.
    pub fn read(&mut self, source: ValueOrigin, shape: Shapes) {
        if let ValueOrigin::Site(site) = source {
            self.sites[site as usize].seen |= shape;
        }
    }

    /// Records that the exact bits of the value are observed.
    pub fn observe(&mut self, source: ValueOrigin) {
        self.read(source, BITS);
    }

    pub fn write(&mut self, local: u32, source: ValueOrigin) {
        self.writes.push((local, source));
    }

    /// Returns the operators after which the value must be made canonical, with its shape, in the
    /// order of the body.
    pub fn canonical(mut self, params: usize, locals: usize) -> Vec<(usize, Shapes)> {
        let lazy = self.lazy(params, locals);
        let shape_of = |made: ResultOrigin| match made {
            ResultOrigin::Arithmetic(shape) => shape,
            ResultOrigin::Number(_) => 0,
            ResultOrigin::Local(local) => lazy[local as usize],
        };
        for (local, source) in &self.writes {
            if let ValueOrigin::Site(site) = source {
                let site = &mut self.sites[*site as usize];
                if shape_of(site.made) != lazy[*local as usize] {
                    site.seen |= BITS;
                }
            }
        }
        let seen = self.sites.iter().map(|site| (site.at, shape_of(site.made), site.seen));
        seen.filter(|(_, shape, seen)| *shape != 0 && seen & !shape != 0).map(|(at, shape, _)| (at, shape)).collect()
    }

    /// Returns the shape in which each local is lazy. The shape is 0 for a local with exact bits,
    /// or without any NaN from arithmetic.
    fn lazy(&self, params: usize, locals: usize) -> Vec<Shapes> {
        // For each local, the shapes that all writes agree on: all at first, then only fewer. And
        // whether arithmetic writes to it: at first no.
        let mut found = vec![(ALL, false); locals];
        found[..params].fill((0, false));
        // For each local, the locals that it is copied to.
        let mut copied: Vec<Vec<u32>> = vec![Vec::new(); locals];
        for (local, source) in &self.writes {
            let (agreed, written) = &mut found[*local as usize];
            match source {
                ValueOrigin::Exact => *agreed = 0,
                ValueOrigin::Site(site) => match self.sites[*site as usize].made {
                    ResultOrigin::Arithmetic(shape) => (*agreed, *written) = (*agreed & shape, true),
                    ResultOrigin::Number(shapes) => *agreed &= shapes,
                    ResultOrigin::Local(from) => copied[from as usize].push(*local),
                },
            }
        }
        // Each local changes only a few times, so this fixpoint ends soon for any pattern of
        // copies.
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

/// Returns the shapes in which these bytes of a vector contain no NaN.
pub fn numbers_in(bytes: [u8; 16]) -> Shapes {
    let singles = bytes.as_chunks::<4>().0.iter().any(|lane| f32::from_le_bytes(*lane).is_nan());
    let doubles = bytes.as_chunks::<8>().0.iter().any(|lane| f64::from_le_bytes(*lane).is_nan());
    (if singles { 0 } else { F32X4 }) | (if doubles { 0 } else { F64X2 })
}
