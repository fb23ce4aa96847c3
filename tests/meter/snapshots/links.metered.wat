(module
  (type (;0;) (func (param i32 i32 i64) (result i32 i64)))
  (type (;1;) (func (param i32 i32 i64) (result i64)))
  (type (;2;) (func (param i32 i64) (result i32 i64)))
  (type (;3;) (func (param i64) (result i32 i64)))
  (type (;4;) (func (param i32) (result i32)))
  (type (;5;) (func (param i64) (result i64)))
  (import "compute" "output_write" (func (;0;) (type 1)))
  (import "compute" "refill" (func (;1;) (type 5)))
  (table (;0;) 2 funcref)
  (memory (;0;) 1)
  (global (;0;) (mut i32) i32.const 0)
  (export "memory" (memory 0))
  (export "run" (func 4))
  (export "compute_global_0" (global 0))
  (export "compute_start_gas_4259" (memory 0))
  (elem (;0;) (i32.const 0) func 2 3)
  (func (;2;) (type 0) (param i32 i32 i64) (result i32 i64)
    local.get 2
    i64.const 1
    i64.sub
    local.set 2
    block (result i32) ;; label = @1
      local.get 0
      local.get 1
      i32.add
    end
    local.get 2
  )
  (func (;3;) (type 0) (param i32 i32 i64) (result i32 i64)
    (local i32)
    local.get 2
    i64.const 2
    i64.sub
    local.set 2
    block (result i32) ;; label = @1
      local.get 0
      local.set 3
      local.get 1
      block (type 4) (param i32) (result i32) ;; label = @2
        local.get 3
        i32.sub
      end
    end
    local.get 2
  )
  (func (;4;) (type 3) (param i64) (result i32 i64)
    (local i32)
    local.get 0
    i64.const 1924145348620
    i64.sub
    local.set 0
    local.get 0
    i64.const -9223372035781033984
    i64.and
    i64.const 0
    i64.ne
    (@metadata.code.branch_hint "\00")
    if ;; label = @1
      local.get 0
      call 1
      local.set 0
    end
    block (result i32) ;; label = @1
      global.get 0
      i32.const 1
      i32.add
      global.set 0
      i32.const 0
      i32.const 5
      local.get 0
      call 0
      local.set 0
      i32.const 1
      i32.const 2
      global.get 0
      local.set 1
      local.get 0
      local.get 1
      call_indirect (type 0)
      local.set 0
    end
    local.get 0
    i64.const 1924145348608
    i64.add
  )
)

