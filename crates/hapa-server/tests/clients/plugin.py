"""What the editor plug-in's documentation tells users of Python to send: address and key are the arguments."""

import sys

import requests

base, key = sys.argv[1:]


def ask(path, body, given=key):
    headers = {"Content-Type": "application/json", "X-API-Key": given}
    return requests.post(f"{base}/api/v1{path}", json=body, headers=headers, timeout=60)


question = {"user_question": "피보나치 수열을 계산하는 함수를 만들어주세요", "code_context": None, "language": "python"}
answer = ask("/code/generate", question | {"max_tokens": 8})
assert answer.status_code == 200, answer.text
body = answer.json()
assert (body["status"], body["error_message"]) == ("success", None), body
assert {"generated_code", "explanation"} <= set(body), body
with_context = question | {"code_context": "# math\n", "file_path": "/src/math_functions.py", "max_tokens": 8}
assert ask("/code/generate", with_context).status_code == 200

cursor = {"prefix": "def calculate_", "language": "python", "cursor_position": 14, "file_path": "/src/calculator.py"}
body = ask("/code/complete", cursor).json()
assert body["status"] == "success" and isinstance(body["completions"][0], str), body

code = {"code": "def hello():\n    print('Hello')", "language": "python", "file_name": "a.py", "check_execution": True, "check_style": False}
assert ask("/validation/validate", code).json()["is_valid"] is True
several = {"code_snippets": [code, {"code": "def world(:", "language": "python"}], "common_language": "python", "session_id": "s"}
assert [result["is_valid"] for result in ask("/validation/validate/batch", several).json()["results"]] == [True, False]

refused = ask("/code/generate", question, given="hapa_" + "0" * 32)
assert (refused.status_code, refused.json()["error_code"]) == (401, "UNAUTHORIZED"), refused.text
assert refused.json()["error_details"]["request_path"] == "/api/v1/code/generate", refused.text
invalid = ask("/code/generate", {"language": "python"})
assert (invalid.status_code, invalid.json()["error_code"]) == (422, "VALIDATION_ERROR"), invalid.text
also = requests.post(f"{base}/api/v1/code/complete", json=cursor, headers={"Authorization": f"ApiKey {key}"}, timeout=60)
assert also.status_code == 200, also.text
