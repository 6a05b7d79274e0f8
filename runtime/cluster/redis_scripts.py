"""The Lua scripts of the prefix index in Redis, and the layout of its keys. Redis 6.2 commands.

    b:XX               HASH, one of 2^16 buckets. A block's key is 8 bytes, big endian: the first
                       two name the bucket, the other six the field. The value is one byte for
                       each slot that has the block
    slots              HASH slot -> worker; '\\0' before it while that is resyncing (masked)
    sweeping           HASH slot -> 'buckets to visit:bytes left'; slots of the gone, not free yet
    sweep              the bucket the sweep visits next
    holder:NAME        HASH incarnation, sequence ('' while resyncing), slot, blocks (a count)
    events             STREAM of what was applied, for mirrors: op, slot, value; op is one of enter
                       (value: as in `slots`), ready (unmasked), leave, evicted, stored (keys).
                       8,192 entries of 1 KiB at most, about

All under `index:`; `incarnations:NAME` is the registry's (registry_redis.py). A slot that `slots`
does not name is masked: lookups answer with names, so its bytes mean nothing. `blocks` counts the
slot's bytes, so that a sweep stops at the last one. What a sweep removes is no event: mirrors sweep
for themselves.
"""

from mserve.runtime.cluster.redis_connection import Script

# Whether an incarnation is the latest of its worker, or new (then it becomes the latest).
SUCCESSION = """
local function admits(key, incarnation)
  if redis.call('LINDEX', key, 0) == incarnation then return true end
  if redis.call('LPOS', key, incarnation) then return false end
  redis.call('LPUSH', key, incarnation)
  redis.call('LTRIM', key, 0, 63)
  redis.call('EXPIRE', key, 86400)
  return true
end
"""

_BLOCKS = """
local prefix = KEYS[1] .. 'index:'
local bucket = prefix .. 'b:'
local find, sub = string.find, string.sub

-- Calls change(slots) for each key; it returns the new bytes, or nil if nothing changes.
local function each(keys, change)
  local changed = 0
  for at = 1, #keys, 8 do
    local name, field = bucket .. sub(keys, at, at + 1), sub(keys, at + 2, at + 7)
    local slots = change(redis.call('HGET', name, field) or '')
    if slots == '' then
      redis.call('HDEL', name, field)
    elseif slots then
      redis.call('HSET', name, field, slots)
    end
    if slots then changed = changed + 1 end
  end
  return changed
end

local function add(keys, slot)
  return each(keys, function(slots)
    return not find(slots, slot, 1, true) and slots .. slot or nil
  end)
end

local function remove(keys, slot)
  return each(keys, function(slots)
    local at = find(slots, slot, 1, true)
    return at and sub(slots, 1, at - 1) .. sub(slots, at + 1)
  end)
end

local function record(op, slot, value)
  redis.call('XADD', prefix .. 'events', 'MAXLEN', '~', 8192, '*',
             'op', op, 'slot', slot, 'value', value)
end

local function record_keys(op, slot, keys)
  for at = 1, #keys, 1024 do record(op, slot, sub(keys, at, at + 1023)) end
end
"""

_HOLDERS = (
    SUCCESSION
    + _BLOCKS
    + """
-- Masks a worker's slot and leaves its bytes to the sweep.
local function retire(holder)
  local slot, blocks = unpack(redis.call('HMGET', holder, 'slot', 'blocks'))
  if not slot then return end
  redis.call('HDEL', prefix .. 'slots', slot)
  record('leave', slot, '')
  if tonumber(blocks) > 0 then
    redis.call('HSET', prefix .. 'sweeping', slot, '65536:' .. blocks)
  end
  redis.call('DEL', holder)
end

local function free_slot()
  for number = 0, 255 do
    local slot = string.char(number)
    if redis.call('HEXISTS', prefix .. 'slots', slot) == 0
        and redis.call('HEXISTS', prefix .. 'sweeping', slot) == 0 then
      return slot
    end
  end
end

-- A slot for this incarnation, empty, in place of what the worker had. Nil if none is free.
local function enrol(worker, incarnation, sequence, name)
  local holder = prefix .. 'holder:' .. worker
  retire(holder)
  local slot = free_slot()
  if not slot then return nil end
  redis.call('HSET', prefix .. 'slots', slot, name)
  redis.call('HSET', holder, 'incarnation', incarnation, 'sequence', sequence,
             'slot', slot, 'blocks', 0)
  record('enter', slot, name)
  return slot
end
"""
)

# worker, incarnation, sequence, evicted keys, stored keys -> 1 applied (now or before), 0 resync
PUBLISH = Script(
    _HOLDERS
    + """
local worker, incarnation, sequence, evicted, stored = unpack(ARGV)
local holder = prefix .. 'holder:' .. worker
local current, last, slot = unpack(redis.call('HMGET', holder, 'incarnation', 'sequence', 'slot'))
if current ~= incarnation then
  if sequence ~= '1' or not admits(KEYS[1] .. 'incarnations:' .. worker, incarnation) then
    return 0
  end
  slot, last = enrol(worker, incarnation, '0', worker), '0'
  if not slot then return 0 end
end
if last == '' or tonumber(sequence) > last + 1 then return 0 end
if tonumber(sequence) <= tonumber(last) then return 1 end
local removed = remove(evicted, slot)
redis.call('HINCRBY', holder, 'blocks', add(stored, slot) - removed)
redis.call('HSET', holder, 'sequence', sequence)
record_keys('evicted', slot, evicted)
record_keys('stored', slot, stored)
return 1
"""
)

# worker, incarnation, sequence -> slot to fill, or 'replaced', 'overtaken', 'full'
RESYNC = Script(
    _HOLDERS
    + """
local worker, incarnation, sequence = unpack(ARGV)
local current, last = unpack(
  redis.call('HMGET', prefix .. 'holder:' .. worker, 'incarnation', 'sequence'))
if not admits(KEYS[1] .. 'incarnations:' .. worker, incarnation) then return 'replaced' end
if current == incarnation and last ~= '' and tonumber(last) > tonumber(sequence) then
  return 'overtaken'
end
return enrol(worker, incarnation, '', '\\0' .. worker) or 'full'
"""
)

# worker, slot, keys, sequence if they are the last ones or '' -> 0 if overtaken
FILL = Script(
    _BLOCKS
    + """
local worker, slot, keys, sequence = unpack(ARGV)
local holder = prefix .. 'holder:' .. worker
local current, last = unpack(redis.call('HMGET', holder, 'slot', 'sequence'))
if current ~= slot or last ~= '' then return 0 end
redis.call('HINCRBY', holder, 'blocks', add(keys, slot))
record_keys('stored', slot, keys)
if sequence ~= '' then
  redis.call('HSET', holder, 'sequence', sequence)
  redis.call('HSET', prefix .. 'slots', slot, worker)
  record('ready', slot, '')
end
return 1
"""
)

# worker, incarnation or '' for any
FORGET = Script(
    _HOLDERS
    + """
local worker, incarnation = unpack(ARGV)
local holder = prefix .. 'holder:' .. worker
local current = redis.call('HGET', holder, 'incarnation')
if not current or (incarnation ~= '' and incarnation ~= current) then return 0 end
retire(holder)
return 1
"""
)

# fields to visit at most -> number of slots that still wait. One round over the buckets serves all
# slots; each ends where it began, or with its last byte.
SWEEP = Script(
    _BLOCKS
    + """
local gone, total, waiting = {}, 0, redis.call('HGETALL', prefix .. 'sweeping')
for at = 1, #waiting, 2 do
  local buckets, bytes = string.match(waiting[at + 1], '(%d+):(%d+)')
  gone[waiting[at]] = {buckets = tonumber(buckets), bytes = tonumber(bytes)}
  total = total + tonumber(bytes)
end

local function cut(slot)
  local state = gone[slot]
  if not state then return nil end
  state.bytes, total = state.bytes - 1, total - 1
  return ''
end

local number, visited = tonumber(redis.call('GET', prefix .. 'sweep') or 0), 0
local budget = tonumber(ARGV[1])
while visited < 65536 and total > 0 and budget > 0 do
  local name = bucket .. string.char(math.floor(number / 256), number % 256)
  local entries = redis.call('HGETALL', name)
  for at = 1, #entries, 2 do
    local slots = string.gsub(entries[at + 1], '.', cut)
    if slots == '' then
      redis.call('HDEL', name, entries[at])
    elseif slots ~= entries[at + 1] then
      redis.call('HSET', name, entries[at], slots)
    end
  end
  budget = budget - 1 - #entries / 2
  number, visited = (number + 1) % 65536, visited + 1
end
redis.call('SET', prefix .. 'sweep', number)

for slot, state in pairs(gone) do
  if state.bytes <= 0 or state.buckets <= visited then
    redis.call('HDEL', prefix .. 'sweeping', slot)
  else
    redis.call('HSET', prefix .. 'sweeping', slot, state.buckets - visited .. ':' .. state.bytes)
  end
end
return redis.call('HLEN', prefix .. 'sweeping')
"""
)

# any number of prompts' keys -> {slot, worker, slot, worker, ...}, then for each prompt the slots
# that have its first, second, ... block, up to the first that nobody has; '' means as before
LOOKUP = Script("""
local bucket = KEYS[1] .. 'index:b:'
local sub = string.sub
local answers = {redis.call('HGETALL', KEYS[1] .. 'index:slots')}
for number, keys in ipairs(ARGV) do
  local answer, previous = {}, ''
  for at = 1, #keys, 8 do
    local slots = redis.call('HGET', bucket .. sub(keys, at, at + 1), sub(keys, at + 2, at + 7))
    if not slots then break end
    answer[#answer + 1] = slots == previous and '' or slots
    previous = slots
  end
  answers[number + 1] = answer
end
return answers
""")

# -> {id of the last event, {slot, name, slot, name, ...}}: where a mirror begins. The stream is not
# empty then, so that every mirror has an event of which it can ask whether it is still there.
BEGIN = Script("""
local events = KEYS[1] .. 'index:events'
local last = redis.call('XREVRANGE', events, '+', '-', 'COUNT', 1)[1]
local id = last and last[1]
    or redis.call('XADD', events, '*', 'op', 'begin', 'slot', '', 'value', '')
return {id, redis.call('HGETALL', KEYS[1] .. 'index:slots')}
""")

# id of the last event read, events at most, bucket to copy next or '', fields and bytes to copy at
# most -> {} if that event is not there, else {events after it, next bucket, {{bucket, {field, slots,
# field, slots, ...}}, ...}}. Buckets are copied as of the last event: only if all were returned.
FOLLOW = Script("""
local events, bucket = KEYS[1] .. 'index:events', KEYS[1] .. 'index:b:'
local last, most, number, budget = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
if #redis.call('XRANGE', events, last, last) == 0 then return {} end
local found, copied = redis.call('XRANGE', events, '(' .. last, '+', 'COUNT', most), {}
if not number or #found == most then return {found, ARGV[3], copied} end
while number < 65536 and budget > 0 do
  local name = string.char(math.floor(number / 256), number % 256)
  local entries = redis.call('HGETALL', bucket .. name)
  budget, number = budget - 1, number + 1
  if #entries > 0 then
    copied[#copied + 1] = {name, entries}
    for at = 2, #entries, 2 do budget = budget - 1 - #entries[at] end
  end
end
return {found, number, copied}
""")
