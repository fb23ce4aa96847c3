(module
  (type (;0;) (func (param i32 i64) (result i32 i64)))
  (type (;1;) (func (param i32 i64) (result i64 i64)))
  (type (;2;) (func (param i32 i64) (result i32 i64)))
  (type (;3;) (func (param i64) (result i64)))
  (import "compute" "refill" (func (;0;) (type 3)))
  (func (;1;) (type 0) (param i32 i64) (result i32 i64)
    local.get 1
    i64.const 1
    i64.sub
    local.set 1
    block (result i32) ;; label = @1
      local.get 0
      i32.const 3
      i32.mul
    end
    local.get 1
  )
  (func (;2;) (type 0) (param i32 i64) (result i32 i64)
    local.get 1
    i64.const 1855425871873
    i64.sub
    local.set 1
    local.get 1
    i64.const -9223372035781033984
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
    block (result i32) ;; label = @1
      local.get 0
      if (result i32) ;; label = @2
        local.get 1
        i64.const 6
        i64.sub
        local.set 1
        local.get 0
        i32.const 1
        i32.sub
        local.get 1
        call 2
        local.set 1
        i32.const 1
        i32.add
      else
        i32.const 0
      end
    end
    local.get 1
    i64.const 1855425871872
    i64.add
  )
  (func (;3;) (type 1) (param i32 i64) (result i64 i64)
    local.get 1
    i64.const 2130303778817
    i64.sub
    local.set 1
    local.get 1
    i64.const -9223372035781033984
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
    block (result i64) ;; label = @1
      local.get 0
      if ;; label = @2
        local.get 1
        i64.const 4
        i64.sub
        local.set 1
        local.get 0
        i32.const 1
        i32.sub
        local.get 1
        call 3
        local.set 1
        drop
      end
      local.get 1
      i64.const 19
      i64.sub
      local.set 1
      local.get 1
      i64.const 1073741824
      i64.and
      i64.const 0
      i64.ne
      (@metadata.code.branch_hint "\00")
      if ;; label = @2
        local.get 1
        call 0
        local.set 1
      end
      i64.const 9
      i64.const 2
      i64.div_u
      i64.const 2
      i64.div_u
      i64.const 2
      i64.div_u
    end
    local.get 1
    i64.const 2130303778816
    i64.add
  )
  (func (;4;) (type 1) (param i32 i64) (result i64 i64)
    local.get 1
    i64.const 1924145348630
    i64.sub
    local.set 1
    local.get 1
    i64.const -9223372035781033984
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
    block (result i64) ;; label = @1
      local.get 0
      local.get 1
      call 1
      local.set 1
      drop
      i64.const 9
      i64.const 2
      i64.div_u
      i64.const 2
      i64.div_u
      i64.const 2
      i64.div_u
    end
    local.get 1
    i64.const 1924145348608
    i64.add
  )
  (func (;5;) (type 2) (param i32 i64) (result i32 i64)
    local.get 0
    local.get 1
    call 0
  )
)

