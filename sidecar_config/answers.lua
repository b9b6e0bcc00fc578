-- What the edge makes of answers, after all other filters: errors of transcoded calls become problem details (RFC 9457),
-- the names of limits become the standard ones, and what the client has already is not sent again (RFC 9110, 304).

local TITLES = {
  [400] = "Bad Request", [401] = "Unauthorized", [403] = "Forbidden", [404] = "Not Found", [408] = "Request Timeout",
  [409] = "Conflict", [412] = "Precondition Failed", [413] = "Content Too Large", [415] = "Unsupported Media Type",
  [416] = "Range Not Satisfiable", [429] = "Too Many Requests", [499] = "Client Closed Request",
  [500] = "Internal Server Error", [501] = "Not Implemented", [502] = "Bad Gateway", [503] = "Service Unavailable",
  [504] = "Gateway Timeout",
}

-- What a client of gRPC-Web hears, which looks for the status of gRPC only.
local CODES = {
  ["400"] = 3, ["401"] = 16, ["403"] = 7, ["404"] = 12, ["408"] = 4, ["413"] = 8, ["429"] = 8, ["501"] = 12,
  ["502"] = 14, ["503"] = 14, ["504"] = 4,
}

local STATE = "agentmesh.answers"

local function unescaped(text)
  return (text:gsub("%%(%x%x)", function(digits) return string.char(tonumber(digits, 16)) end))
end

local function quoted(text)
  local made = text:gsub('[%c"\\]', function(char)
    if char == '"' or char == "\\" then return "\\" .. char end
    return string.format("\\u%04x", string.byte(char))
  end)
  return '"' .. made .. '"'
end

-- The members of google.rpc.Status in JSON, as the transcoder writes it; its "message" is the detail of the problem.
-- nil when the body is something else.
local function members_of_body(handle)
  local body = handle:body()
  local text = body and body:length() > 0 and body:getBytes(0, body:length()) or ""
  local inner = text:match('^{("code":%d+.*)}%s*$')
  return inner and (inner:gsub('"message":', '"detail":', 1))
end

-- The same from the headers, where the transcoder could not read what came.
local function members_of_headers(headers)
  local message = headers:get("grpc-message") or ""
  return '"code":' .. (headers:get("grpc-status") or "2") .. ',"detail":' .. quoted(unescaped(message))
end

-- Whoever has waited for a body must ask for the headers anew.
local function tell_problem(handle, status)
  local headers = handle:headers()
  local content_type = headers:get("content-type") or ""
  local members
  if content_type:find("application/json", 1, true) == 1 then
    members = members_of_body(handle)
  elseif content_type == "application/grpc" then
    members = members_of_headers(headers)
  end
  if members == nil then return end
  local title = quoted(TITLES[tonumber(status)] or "Error")
  local text = '{"type":"about:blank","title":' .. title .. ',"status":' .. status .. "," .. members .. "}"
  local length = handle:body(true):setBytes(text)
  headers = handle:headers()
  headers:replace("content-type", "application/problem+json")
  headers:replace("content-length", tostring(length))
  headers:remove("grpc-status-details-bin")
end

local function tell_grpc_web(handle, status, content_type)
  local body = handle:body()
  local text = body and body:length() > 0 and body:getBytes(0, body:length()) or ""
  local detail = text:match('"detail":"(.-[^\\])"') or text
  local message = detail:gsub("[^ -$&-~]", function(char) return string.format("%%%02X", string.byte(char)) end)
  handle:body(true):setBytes("")
  local headers = handle:headers()
  headers:replace(":status", "200")
  headers:replace("content-type", content_type)
  headers:replace("content-length", "0")
  headers:replace("grpc-status", tostring(CODES[status] or 2))
  -- Where Envoy's own filter has made one of the body already, there is none left here.
  if headers:get("grpc-message") == nil then headers:replace("grpc-message", message) end
end

local function tell_limits(headers, status)
  local left = headers:get("x-ratelimit-remaining")
  if left ~= nil then
    local reset = headers:get("x-ratelimit-reset") or "1"
    if headers:get("ratelimit") == nil then
      headers:add("ratelimit", '"client";r=' .. left .. ";t=" .. reset)
      local policy = headers:get("x-ratelimit-limit") or ""
      local most, window = policy:match("(%d+);w=(%d+)")
      if most then headers:add("ratelimit-policy", '"client";q=' .. most .. ";w=" .. window) end
    end
    if status == "429" and headers:get("retry-after") == nil then headers:add("retry-after", reset) end
    headers:remove("x-ratelimit-remaining")
    headers:remove("x-ratelimit-reset")
    headers:remove("x-ratelimit-limit")
  end
end

function envoy_on_request(handle)
  local known = handle:headers():get("if-none-match")
  if known ~= nil then handle:streamInfo():dynamicMetadata():set(STATE, "if-none-match", known) end
  local content_type = handle:headers():get("content-type")
  if content_type ~= nil and content_type:find("application/grpc-web", 1, true) == 1 then
    handle:streamInfo():dynamicMetadata():set(STATE, "grpc-web", content_type)
  end
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local status = headers:get(":status")
  tell_limits(headers, status)
  local state = handle:streamInfo():dynamicMetadata():get(STATE)
  if status >= "400" then
    local content_type = state and state["grpc-web"]
    if content_type then
      tell_grpc_web(handle, status, content_type)
    else
      tell_problem(handle, status)
    end
    return
  end
  local etag = headers:get("etag")
  if etag == nil or status ~= "200" then return end
  local known = state and state["if-none-match"]
  if known ~= nil and (known == "*" or known:find(etag, 1, true)) then
    handle:body(true):setBytes("")
    headers = handle:headers()
    headers:replace(":status", "304")
    headers:remove("content-length")
    headers:remove("content-type")
  end
end
