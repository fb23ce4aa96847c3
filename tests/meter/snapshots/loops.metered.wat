(module
  (type (;0;) (func (param i32 i64) (result i64 i64)))
  (type (;1;) (func (param i64) (result i64)))
  (type (;2;) (func (param i32 i64 i64) (result i32 i64 i64)))
  (type (;3;) (func (param i64) (result i64)))
  (import "compute" "refill" (func (;0;) (type 3)))
  (func (;1;) (type 0) (param i32 i64) (result i64 i64)
    (local i64)
    local.get 1
    i64.const 1073741824
    i64.and
    i64.const 0
    i64.ne
    (@metadata.code.branch_hint "\00")
    if ;; label = @1
      local.get 0
      local.get 2
      local.get 1
      call 3
      local.set 1
      local.set 2
      local.set 0
    end
    block (result i64) ;; label = @1
      loop ;; label = @2
        local.get 1
        i64.const 5
        i64.sub
        local.set 1
        local.get 1
        i64.const 1073741824
        i64.and
        i64.const 0
        i64.ne
        (@metadata.code.branch_hint "\00")
        if ;; label = @3
          local.get 0
          local.get 2
          local.get 1
          call 3
          local.set 1
          local.set 2
          local.set 0
        end
        local.get 2
        local.get 0
        i64.extend_i32_u
        i64.add
        local.set 2
        local.get 0
        i32.const 1
        i32.sub
        local.tee 0
        br_if 0 (;@2;)
      end
      local.get 2
    end
    local.get 1
  )
  (func (;2;) (type 1) (param i64) (result i64)
    local.get 0
    i64.const 1073741824
    i64.and
    i64.const 0
    i64.ne
    (@metadata.code.branch_hint "\00")
    if ;; label = @1
      local.get 0
      call 0
      local.set 0
    end
    block ;; label = @1
      loop ;; label = @2
        local.get 0
        i64.const 1
        i64.sub
        local.set 0
        local.get 0
        i64.const 1073741824
        i64.and
        i64.const 0
        i64.ne
        (@metadata.code.branch_hint "\00")
        if ;; label = @3
          local.get 0
          call 0
          local.set 0
        end
        br 0 (;@2;)
      end
    end
    local.get 0
  )
  (func (;3;) (type 2) (param i32 i64 i64) (result i32 i64 i64)
    local.get 0
    local.get 1
    local.get 2
    call 0
  )
)

