"""PyTorch on the same GPU: f32 and f16 products and attention, seconds as JSON."""
import json
import torch


def seconds(run, repeat=20):
    run()
    torch.cuda.synchronize()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(repeat):
        run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000 / repeat


torch.backends.cuda.matmul.allow_tf32 = False
rows = []
for n in (1024, 4096):
    for dtype in (torch.float32, torch.float16):
        a, b = (torch.randn(n, n, device="cuda", dtype=dtype) for _ in range(2))
        rows.append({"case": f"matmul {dtype} {n}", "seconds": seconds(lambda: a @ b), "flops": 2 * n**3})
for queries in (1, 512):
    q = torch.randn(1, 32, queries, 128, device="cuda")
    k, v = (torch.randn(1, 32, 8192, 128, device="cuda") for _ in range(2))
    run = lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v)
    rows.append({"case": f"attention {queries} of 8192", "seconds": seconds(run)})
x = torch.randn(4096, 4096, device="cuda")
rows.append({"case": "softmax 4096", "seconds": seconds(lambda: torch.softmax(x, -1)), "bytes": 2 * x.numel() * 4})
print(json.dumps({"device": torch.cuda.get_device_name(), "torch": torch.__version__, "rows": rows}, indent=1))
