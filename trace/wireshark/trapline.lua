-- Shows recordings of trapline in Wireshark and tshark (`trapline trace export --format pcapng`):
--
--     tshark -X lua_script:trapline.lua -r FILE
--
-- A packet is one access of the guest; its fields are in trace/src/export/pcapng.rs.

local trapline = Proto("trapline", "Access of a guest")

local directions = { [0] = "read", [1] = "write" }
local spaces = { [0] = "mmio", [1] = "pio" }
local outcomes = {
    [0] = "handled", [1] = "coalesced", [2] = "rang", [3] = "forwarded", [4] = "gone",
    [5] = "refused", [6] = "unclaimed", [7] = "mixed",
}

local f = {
    direction = ProtoField.uint8("trapline.direction", "Direction", base.DEC, directions),
    width = ProtoField.uint8("trapline.width", "Width in bytes", base.DEC),
    space = ProtoField.uint8("trapline.space", "Space", base.DEC, spaces),
    outcome = ProtoField.uint8("trapline.outcome", "Outcome", base.DEC, outcomes),
    count = ProtoField.uint32("trapline.count", "Elements", base.DEC),
    address = ProtoField.uint64("trapline.address", "Address", base.HEX),
    value = ProtoField.uint64("trapline.value", "Value", base.HEX),
    region = ProtoField.string("trapline.region", "Region"),
    register = ProtoField.string("trapline.register", "Register"),
    fields = ProtoField.string("trapline.fields", "Bit fields"),
}
trapline.fields = f

-- The text at an offset up to its zero, and where the next one begins.
local function text(buffer, at)
    local range = buffer(at):stringz()
    return range, at + #range + 1
end

function trapline.dissector(buffer, pinfo, tree)
    if buffer:len() < 27 then
        return 0
    end
    local region, next_one = text(buffer, 24)
    local region_at, register_at = 24, next_one
    local register, fields_at = text(buffer, register_at)
    local fields = text(buffer, fields_at)
    local direction = directions[buffer(0, 1):uint()] or "?"
    local outcome = buffer(3, 1):uint()
    local value = buffer(16, 8):le_uint64()
    pinfo.cols.protocol = "trapline"
    pinfo.cols.src = region
    pinfo.cols.dst = register
    local info = string.format("%s %s %s 0x%s", direction, region, register, value:tohex():gsub("^0+(%x)", "%1"))
    if #fields > 0 then
        info = info .. " {" .. fields .. "}"
    end
    if outcome ~= 0 then
        info = info .. " " .. (outcomes[outcome] or "?")
    end
    pinfo.cols.info = info
    local shown = tree:add(trapline, buffer(), info)
    shown:add(f.direction, buffer(0, 1))
    shown:add(f.width, buffer(1, 1))
    shown:add(f.space, buffer(2, 1))
    shown:add(f.outcome, buffer(3, 1))
    shown:add_le(f.count, buffer(4, 4))
    shown:add_le(f.address, buffer(8, 8))
    shown:add_le(f.value, buffer(16, 8))
    shown:add(f.region, buffer(region_at, #region + 1), region)
    shown:add(f.register, buffer(register_at, #register + 1), register)
    shown:add(f.fields, buffer(fields_at, #fields + 1), fields)
    return buffer:len()
end

-- LINKTYPE_USER0.
DissectorTable.get("wtap_encap"):add(wtap.USER0, trapline)
