from ._call import sosfilt as _s, sosfilt_vjp as _v
def sosfilt(sos, x, axis=-1, zi=None, *, reverse=False, lengths=None, return_state=False, out=None):
    return _s(x, sos, zi, axis, reverse, lengths, return_state, out)
def sosfilt_vjp(grad_y, sos, x, y, zi=None, *, axis=-1, reverse=False, lengths=None, grad_zf=None):
    return _v(grad_y, sos, x, y, zi, axis, reverse, lengths, grad_zf)
