//! Arity of operators: the data about the module that wasmparser needs to tell how many operands a
//! non-branching operator pops and pushes.

use wasmparser::{BlockType, ContType, FrameKind, FuncType, ModuleArity, RefType, SubType};

use super::Meter;

pub struct ArityOf<'a>(pub &'a Meter);

impl ModuleArity for ArityOf<'_> {
    fn sub_type_at(&self, ty: u32) -> Option<&SubType> {
        self.0.types.get(ty as usize)
    }

    fn tag_type_arity(&self, _tag: u32) -> Option<(u32, u32)> {
        None
    }

    fn type_index_of_function(&self, function: u32) -> Option<u32> {
        self.0.functions.get(function as usize).copied()
    }

    fn func_type_of_cont_type(&self, _ty: &ContType) -> Option<&FuncType> {
        None
    }

    fn sub_type_of_ref_type(&self, _ty: &RefType) -> Option<&SubType> {
        None
    }

    fn control_stack_height(&self) -> u32 {
        0
    }

    fn label_block(&self, _depth: u32) -> Option<(BlockType, FrameKind)> {
        None
    }
}
