(module
  (type (;0;) (func (param i32 i64) (result i64)))
  (type (;1;) (func (param i32 i64) (result i32 i64)))
  (type (;2;) (func (param i32 i64) (result i32 i64)))
  (type (;3;) (func (param i32 i32 i32 i64) (result i64)))
  (type (;4;) (func (param i64) (result i64)))
  (import "compute" "refill" (func (;0;) (type 4)))
  (table (;0;) 8 funcref)
  (memory (;0;) 1)
  (export "compute_start_gas_4104" (memory 0))
  (func (;1;) (type 0) (param i32 i64) (result i64)
    (local i32 i32 i32)
    local.get 1
    i64.const 6
    i64.sub
    local.set 1
    local.get 1
    i64.const 1073741824
    i64.and
    i64.const 0
    i64.ne
    (@metadata.code.branch_hint "\00")
    if ;; label = @1
      local.get 0
      local.get 1
      call 5
      local.set 1
      local.set 0
    end
    block ;; label = @1
      i32.const 0
      i32.const 42
      local.get 0
      local.set 4
      local.set 3
      local.set 2
      local.get 4
      i32.const 4096
      i32.le_u
      (@metadata.code.branch_hint "\01")
      if ;; label = @2
        local.get 1
        local.get 4
        i64.extend_i32_u
        i64.const 6
        i64.shr_u
        i64.const 268435455
        i64.and
        i64.sub
        local.set 1
        local.get 4
        i32.eqz
        if ;; label = @3
          local.get 2
          local.get 2
          i32.const 0
          memory.copy
        else
          local.get 2
          local.get 3
          local.get 4
          memory.fill
        end
      else
        local.get 2
        local.get 3
        local.get 4
        local.get 1
        call 6
        local.set 1
      end
    end
    local.get 1
  )
  (func (;2;) (type 0) (param i32 i64) (result i64)
    (local i32)
    local.get 1
    i64.const 4
    i64.sub
    local.set 1
    block ;; label = @1
      i32.const 0
      i32.const 0
      local.get 0
      local.set 2
      local.get 1
      local.get 2
      i64.extend_i32_u
      i64.const 6
      i64.shr_u
      i64.const 268435455
      i64.and
      i64.sub
      local.set 1
      local.get 1
      i64.const 1073741824
      i64.and
      i64.const 0
      i64.ne
      if ;; label = @2
        local.get 1
        call 0
        local.set 1
      end
      local.get 2
      memory.init 0
    end
    local.get 1
  )
  (func (;3;) (type 1) (param i32 i64) (result i32 i64)
    (local i32 i32)
    local.get 1
    i64.const 60
    i64.sub
    local.set 1
    block (result i32) ;; label = @1
      local.get 0
      local.tee 2
      memory.grow
      local.tee 3
      i32.const -1
      i32.ne
      if ;; label = @2
        local.get 1
        local.get 2
        i64.extend_i32_u
        i64.const 4096
        i64.mul
        i64.sub
        local.set 1
        local.get 1
        i64.const 1073741824
        i64.and
        i64.const 0
        i64.ne
        if ;; label = @3
          local.get 1
          call 0
          local.set 1
        end
      end
      local.get 3
    end
    local.get 1
  )
  (func (;4;) (type 1) (param i32 i64) (result i32 i64)
    (local i32 i32)
    local.get 1
    i64.const 30
    i64.sub
    local.set 1
    block (result i32) ;; label = @1
      ref.null func
      local.get 0
      local.tee 2
      table.grow 0
      local.tee 3
      i32.const -1
      i32.ne
      if ;; label = @2
        local.get 1
        local.get 2
        i64.extend_i32_u
        i64.const 1
        i64.mul
        i64.sub
        local.set 1
        local.get 1
        i64.const 1073741824
        i64.and
        i64.const 0
        i64.ne
        if ;; label = @3
          local.get 1
          call 0
          local.set 1
        end
      end
      local.get 3
    end
    local.get 1
  )
  (func (;5;) (type 2) (param i32 i64) (result i32 i64)
    local.get 0
    local.get 1
    call 0
  )
  (func (;6;) (type 3) (param i32 i32 i32 i64) (result i64)
    (local i32)
    local.get 2
    i32.const 16777216
    i32.gt_u
    local.get 0
    i64.extend_i32_u
    local.get 2
    i64.extend_i32_u
    i64.add
    memory.size
    i64.extend_i32_u
    i64.const 16
    i64.shl
    i64.le_u
    i32.and
    if ;; label = @1
      loop ;; label = @2
        i32.const 16777216
        local.set 4
        local.get 3
        local.get 4
        i64.extend_i32_u
        i64.const 6
        i64.shr_u
        i64.const 268435455
        i64.and
        i64.sub
        local.set 3
        local.get 3
        i64.const 1073741824
        i64.and
        i64.const 0
        i64.ne
        if ;; label = @3
          local.get 3
          call 0
          local.set 3
        end
        local.get 0
        local.get 1
        i32.const 16777216
        memory.fill
        local.get 0
        i32.const 16777216
        i32.add
        local.set 0
        local.get 2
        i32.const 16777216
        i32.sub
        local.tee 2
        i32.const 16777216
        i32.gt_u
        br_if 0 (;@2;)
      end
    end
    local.get 3
    local.get 2
    i64.extend_i32_u
    i64.const 6
    i64.shr_u
    i64.const 268435455
    i64.and
    i64.sub
    local.set 3
    local.get 3
    i64.const 1073741824
    i64.and
    i64.const 0
    i64.ne
    if ;; label = @1
      local.get 3
      call 0
      local.set 3
    end
    local.get 0
    local.get 1
    local.get 2
    memory.fill
    local.get 3
  )
  (data (;0;) "text")
)

